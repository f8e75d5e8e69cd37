"""The formats in which vendors hand out secrets, and values of them that are made at run time.

A shape is written like the expression a vendor publishes: text, classes with a length, and choices. No value of any
stands in a file. The facts are the vendors' own and those that scanners for secrets have collected from them.
"""

import random
import re
from typing import NamedTuple

_PIECE = re.compile(r"\[([^\]]+)\](?:\{(\d+)\})?|\(([^)]+)\)|\\(.)|([^\[\](){}\\])")
_RANGE = re.compile(r"(\w)-(\w)|(.)")


class Format(NamedTuple):
    """A kind of secret: who hands it out, and what it looks like. One with a `prefix` is known by its form alone."""

    name: str
    shape: str
    has_prefix: bool

    @property
    def expression(self) -> re.Pattern[str]:
        """What matches every value of it, and nothing of another length or alphabet."""
        return re.compile("".join(_expressed(piece) for piece in _PIECE.finditer(self.shape)))

    def make(self, source: random.Random) -> str:
        """A value that nobody has been given."""
        return "".join(_made(piece, source) for piece in _PIECE.finditer(self.shape))


def _made(piece: re.Match[str], source: random.Random) -> str:
    letters, count, choices, escaped, plain = piece.groups()
    if letters:
        return "".join(source.choices(_alphabet(letters), k=int(count or 1)))
    return source.choice(choices.split("|")) if choices else escaped or plain


def _expressed(piece: re.Match[str]) -> str:
    letters, count, choices, escaped, plain = piece.groups()
    if letters:
        return f"[{re.escape(_alphabet(letters))}]{{{count or 1}}}"
    return f"({choices})" if choices else re.escape(escaped or plain)


def _alphabet(letters: str) -> str:
    found = ""
    for low, high, single in _RANGE.findall(letters):
        found += single or "".join(map(chr, range(ord(low), ord(high) + 1)))
    return found


_PREFIXED = {
    "1password account": "A3-[A-Z0-9]{6}-[A-Z0-9]{6}-[A-Z0-9]{5}-[A-Z0-9]{5}-[A-Z0-9]{5}",
    "1password service": "ops_eyJ[A-Za-z0-9+/]{260}",
    "adobe secret": "p8e-[A-Za-z0-9]{32}",
    "age": "AGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}",
    "airtable": "pat[A-Za-z0-9]{14}\\.[a-f0-9]{64}",
    "alibaba id": "LTAI[A-Za-z0-9]{20}",
    "anthropic api": "sk-ant-api03-[A-Za-z0-9_-]{93}AA",
    "anthropic admin": "sk-ant-admin01-[A-Za-z0-9_-]{93}AA",
    "anthropic oauth": "sk-ant-oat01-[A-Za-z0-9_-]{93}AA",
    "apify": "apify_api_[A-Za-z0-9]{36}",
    "artifactory key": "AKCp[A-Za-z0-9]{69}",
    "artifactory reference": "cmVmd[A-Za-z0-9]{59}",
    "atlassian": "ATATT3[A-Za-z0-9_-]{180}=[A-F0-9]{8}",
    "aws id": "AKIA[A-Z2-7]{16}",
    "aws session id": "ASIA[A-Z2-7]{16}",
    "aws bedrock": "ABSK[A-Za-z0-9+/]{109}=",
    "azure app": "[A-Za-z0-9]{3}[0-9]Q~[A-Za-z0-9_.-]{34}",
    "buildkite": "bkua_[a-f0-9]{40}",
    "ccflare": "ccf_[A-Za-z0-9_-]{43}",
    "circleci personal": "CCIPAT_[A-Za-z0-9]{22}_[a-f0-9]{40}",
    "clickhouse": "4b1d[A-Za-z0-9]{38}",
    "clojars": "CLOJARS_[a-z0-9]{60}",
    "cloudflare origin": "v1\\.0-[a-f0-9]{24}-[a-f0-9]{146}",
    "contentful": "CFPAT-[A-Za-z0-9_-]{43}",
    "databricks": "dapi[a-f0-9]{32}",
    "defined networking": "dnkey-[A-Z0-9]{26}-[A-Z0-9]{52}",
    "digitalocean personal": "dop_v1_[a-f0-9]{64}",
    "digitalocean oauth": "doo_v1_[a-f0-9]{64}",
    "digitalocean refresh": "dor_v1_[a-f0-9]{64}",
    "docker personal": "dckr_pat_[A-Za-z0-9_-]{27}",
    "docker organization": "dckr_oat_[A-Za-z0-9_-]{32}",
    "doppler": "dp\\.pt\\.[A-Za-z0-9]{43}",
    "duffel": "duffel_live_[A-Za-z0-9_-]{43}",
    "dynatrace": "dt0c01\\.[A-Z2-7]{24}\\.[A-Z2-7]{64}",
    "easypost": "EZAK[A-Za-z0-9]{54}",
    "facebook page": "EAAM[A-Za-z0-9]{120}",
    "figma": "figd_[A-Za-z0-9_-]{40}",
    "flutterwave": "FLWSECK_TEST-[a-h0-9]{32}-X",
    "fly.io": "fm2_[A-Za-z0-9+/]{120}",
    "frame.io": "fio-u-[A-Za-z0-9_-]{64}",
    "github personal": "ghp_[A-Za-z0-9]{36}",
    "github oauth": "gho_[A-Za-z0-9]{36}",
    "github app": "gh(u|s)_[A-Za-z0-9]{36}",
    "github refresh": "ghr_[A-Za-z0-9]{76}",
    "github fine-grained": "github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}",
    "gitlab personal": "glpat-[A-Za-z0-9_-]{20}",
    "gitlab deploy": "gldt-[A-Za-z0-9_-]{20}",
    "gitlab runner": "glrt-[A-Za-z0-9_-]{20}",
    "gitlab pipeline": "glptt-[a-f0-9]{40}",
    "gitlab job": "glcbt-[a-f0-9]{2}_[A-Za-z0-9_-]{20}",
    "gitlab feed": "glft-[A-Za-z0-9_-]{20}",
    "gitlab kubernetes agent": "glagent-[A-Za-z0-9_-]{50}",
    "google api": "AIza[A-Za-z0-9_-]{35}",
    "google client": "GOCSPX-[A-Za-z0-9_-]{28}",
    "google access": "ya29\\.a0[A-Za-z0-9_-]{160}",
    "google refresh": "1//0[A-Za-z0-9_-]{60}",
    "grafana cloud": "glc_eyJ[A-Za-z0-9+/]{80}",
    "grafana service": "glsa_[A-Za-z0-9]{32}_[a-f0-9]{8}",
    "groq": "gsk_[A-Za-z0-9]{52}",
    "terraform cloud": "[A-Za-z0-9]{14}\\.atlasv1\\.[A-Za-z0-9_-]{67}",
    "heroku": "HRKU-AA[A-Za-z0-9_-]{58}",
    "hugging face": "hf_[A-Za-z]{34}",
    "hugging face organization": "api_org_[A-Za-z]{34}",
    "infracost": "ico-[A-Za-z0-9]{32}",
    "intra42": "s-s4t2ud-[a-f0-9]{64}",
    "jwt": "eyJhbGciOiJIUzI1NiJ9\\.eyJ[A-Za-z0-9_-]{60}\\.[A-Za-z0-9_-]{43}",
    "langfuse": "sk-lf-[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12}",
    "langsmith": "lsv2_pt_[a-f0-9]{32}_[a-f0-9]{10}",
    "launchdarkly": "api-[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12}",
    "linear": "lin_api_[A-Za-z0-9]{40}",
    "mailchimp": "[a-f0-9]{32}-us[0-9]{2}",
    "mailgun": "key-[a-f0-9]{32}",
    "mapbox": "sk\\.eyJ[A-Za-z0-9_-]{80}\\.[A-Za-z0-9_-]{22}",
    "maxmind": "[A-Za-z0-9]{6}_[A-Za-z0-9]{29}_mmk",
    "new relic user": "NRAK-[A-Z0-9]{27}",
    "new relic insert": "NRII-[A-Za-z0-9_-]{32}",
    "notion": "ntn_[0-9]{11}[A-Za-z0-9]{35}",
    "notion integration": "secret_[A-Za-z0-9]{43}",
    "npm": "npm_[A-Za-z0-9]{36}",
    "nvidia": "nvapi-[A-Za-z0-9_-]{64}",
    "octopus": "API-[A-Z0-9]{26}",
    "openai project": "sk-proj-[A-Za-z0-9_-]{74}T3BlbkFJ[A-Za-z0-9_-]{74}",
    "openai service": "sk-svcacct-[A-Za-z0-9_-]{74}T3BlbkFJ[A-Za-z0-9_-]{74}",
    "openai admin": "sk-admin-[A-Za-z0-9_-]{58}T3BlbkFJ[A-Za-z0-9_-]{58}",
    "openai user": "sk-[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20}",
    "openrouter": "sk-or-v1-[a-f0-9]{64}",
    "openshift": "sha256~[A-Za-z0-9_-]{43}",
    "perplexity": "pplx-[A-Za-z0-9]{48}",
    "plaid": "access-production-[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12}",
    "planetscale service": "pscale_tkn_[A-Za-z0-9_-]{43}",
    "planetscale branch": "pscale_pw_[A-Za-z0-9_-]{43}",
    "posthog": "phx_[A-Za-z0-9]{43}",
    "postman": "PMAK-[a-f0-9]{24}-[a-f0-9]{34}",
    "prefect": "pnu_[A-Za-z0-9]{36}",
    "pulumi": "pul-[a-f0-9]{40}",
    "pypi": "pypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{150}",
    "readme": "rdme_[a-z0-9]{70}",
    "replicate": "r8_[A-Za-z0-9]{37}",
    "rubygems": "rubygems_[a-f0-9]{48}",
    "scalingo": "tk-us-[A-Za-z0-9_-]{48}",
    "sendgrid": "SG\\.[A-Za-z0-9_-]{22}\\.[A-Za-z0-9_-]{43}",
    "sendinblue": "xkeysib-[a-f0-9]{64}-[A-Za-z0-9]{16}",
    "sentry organization": "sntrys_eyJpYXQiO[A-Za-z0-9+/]{120}_[A-Za-z0-9+/]{43}",
    "sentry user": "sntryu_[a-f0-9]{64}",
    "shippo": "shippo_live_[a-f0-9]{40}",
    "shopify": "shp(at|ca|pa|ss)_[a-f0-9]{32}",
    "slack bot": "xoxb-[0-9]{12}-[0-9]{12}-[A-Za-z0-9]{24}",
    "slack user": "xoxp-[0-9]{12}-[0-9]{12}-[0-9]{12}-[a-f0-9]{32}",
    "slack app": "xapp-1-[A-Z0-9]{11}-[0-9]{13}-[a-f0-9]{64}",
    "slack refresh": "xoxe-1-[A-Z0-9]{146}",
    "slack webhook": "https://hooks.slack.com/services/T[A-Z0-9]{10}/B[A-Z0-9]{10}/[A-Za-z0-9]{24}",
    "sonarqube": "sq(u|p|a)_[a-f0-9]{40}",
    "sourcegraph": "sgp_[a-f0-9]{16}_[a-f0-9]{40}",
    "square": "EAAA[A-Za-z0-9_-]{60}",
    "square oauth": "sq0csp-[A-Za-z0-9_-]{43}",
    "stripe live": "sk_live_[A-Za-z0-9]{99}",
    "stripe test": "sk_test_[A-Za-z0-9]{24}",
    "stripe restricted": "rk_live_[A-Za-z0-9]{99}",
    "stripe webhook": "whsec_[A-Za-z0-9]{32}",
    "supabase": "sbp_[a-f0-9]{40}",
    "tailscale": "tskey-auth-[A-Za-z0-9]{17}-[A-Za-z0-9]{32}",
    "tavily": "tvly-[A-Za-z0-9]{32}",
    "telegram": "[0-9]{10}:AA[A-Za-z0-9_-]{33}",
    "twilio key": "SK[a-f0-9]{32}",
    "typeform": "tfp_[A-Za-z0-9_-]{59}",
    "vault service": "hvs\\.[A-Za-z0-9_-]{95}",
    "vault batch": "hvb\\.[A-Za-z0-9_-]{150}",
    "xai": "xai-[A-Za-z0-9]{80}",
    "htpasswd bcrypt": "$2y$10$[A-Za-z0-9./]{53}",
    "htpasswd md5": "$apr1$[A-Za-z0-9./]{8}$[A-Za-z0-9./]{22}",
    "shadow sha512": "$6$[A-Za-z0-9./]{16}$[A-Za-z0-9./]{86}",
    "yandex": "AQVN[A-Za-z0-9_-]{36}",
}

_BY_NAME_ONLY = {
    "aws secret": "[A-Za-z0-9+/]{40}",
    "azure storage": "[A-Za-z0-9+/]{86}==",
    "base64 of 32 bytes": "[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=",
    "base64url of 32 bytes": "[A-Za-z0-9_-]{43}",
    "bitbucket client": "[a-z0-9]{32}",
    "cloudflare": "[A-Za-z0-9_-]{40}",
    "datadog": "[a-f0-9]{32}",
    "datadog app": "[a-f0-9]{40}",
    "discord bot": "[MNO][A-Za-z0-9]{23}\\.[A-Za-z0-9_-]{6}\\.[A-Za-z0-9_-]{38}",
    "django": "[a-z0-9!@#^*_+-]{50}",
    "gmail application": "[a-z]{16}",
    "hex of 32 bytes": "[a-f0-9]{64}",
    "heroku uuid": "[a-f0-9]{8}-[a-f0-9]{4}-4[a-f0-9]{3}-[89ab][a-f0-9]{3}-[a-f0-9]{12}",
    "okta": "00[A-Za-z0-9_-]{40}",
    "password": "[A-Za-z0-9]{16}",
    "password with signs": "[A-Za-z]{4}[A-Za-z0-9!#%*+_~^-]{18}[0-9]{2}",
    "password with ; and '": "[A-Za-z]{4}[0-9]{2}[A-Za-z0-9]{4};[A-Za-z0-9]{4}'[A-Za-z0-9]{8}",
    "twitch": "[a-z0-9]{30}",
}

FORMATS = (
    *(Format(name, shape, True) for name, shape in _PREFIXED.items()),
    *(Format(name, shape, False) for name, shape in _BY_NAME_ONLY.items()),
)
