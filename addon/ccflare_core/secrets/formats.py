"""The formats in which vendors hand out secrets, each with where it is published. Pure data.

A rule has the literals of which one stands in every secret of its kind, and an expression. Lengths are the published
ones or less, where a literal is known for nothing else: what was cut off still tells most of a secret. A literal that
is also part of words wants the whole length and a border in front.

An expression is compiled when it is first needed: most programs that import this search nothing, and all of them
together take as long as everything else that a script imports from here.
"""

import re
from functools import cache
from typing import NamedTuple


class Rule(NamedTuple):
    """What a kind of secret looks like, where its literal begins or up to `back` bytes before that."""

    label: str
    literals: tuple[str, ...]
    expression: bytes
    source: str
    back: int = 0

    @property
    def pattern(self) -> re.Pattern[bytes]:
        """The expression, compiled."""
        return _compiled(self.expression)


_compiled = cache(re.compile)


# In front of a literal that may be a word's end. What JSON's, a terminal's or a URL's escape ends with is no word.
_BORDER = r"(?:(?<![A-Za-z0-9])|(?<=\\[bfnrt])|(?<=\\u[0-9a-f]{4})|(?<=%[0-9A-F]{2})|(?<=\[[0-9]m)|(?<=\[[0-9]{2}m))"
_END = r"(?![A-Za-z0-9])"
_UUID = r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"
# Where a vendor names its prefixes but not what follows, or publishes nothing: collected by a scanner for secrets.
_GITLEAKS = "https://github.com/gitleaks/gitleaks/blob/master/config/gitleaks.toml"
_GITHUB = "https://docs.github.com/en/code-security/secret-scanning/introduction/supported-secret-scanning-patterns"
_GITHUB_TOKENS = (
    "https://docs.github.com/en/authentication/keeping-your-account-and-data-secure/about-authentication-to-github"
)
_CRYPT = "https://man7.org/linux/man-pages/man5/crypt.5.html"

# fmt: off
_PLAIN = (  # label, literals, what follows the literal, source
    ("anthropic-key", "sk-ant-", r"[\w-]{8,}+", "https://docs.claude.com/en/api/overview"),
    ("client-key", "ccf_", r"[\w-]{16,}+", "accounts of this program: README.md"),
    ("openai-key", "sk-proj- sk-svcacct- sk-admin- sk-service-", r"[\w-]{20,}+", "https://platform.openai.com/docs/api-reference/authentication"),
    ("github-token", "ghp_ gho_ ghu_ ghs_ ghr_", r"[A-Za-z0-9]{20,}+", _GITHUB_TOKENS),
    ("github-token", "github_pat_", r"\w{20,}+", _GITHUB_TOKENS),
    ("gitlab-token", "glpat- gldt- glrt- glrtr- glptt- glcbt- glft- glagent- glsoat- glimt- glffct- glwt- gloas-",
        r"[\w.-]{16,}+", "https://docs.gitlab.com/security/tokens/#token-prefixes"),
    ("slack-token", "xoxa- xoxb- xoxe- xoxo- xoxp- xoxr- xoxs- xoxc- xoxd- xapp-", r"[\w-]{10,}+", "https://docs.slack.dev/authentication/tokens"),
    ("slack-webhook", "hooks.slack.com/services/ hooks.slack.com/workflows/ hooks.slack.com/triggers/",
        r"[A-Za-z0-9/]{30,}+", "https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks"),
    ("google-key", "AIza", r"[\w-]{35}", "https://cloud.google.com/docs/authentication/api-keys"),
    ("google-secret", "GOCSPX-", r"[\w-]{20,}+", _GITHUB),
    ("google-token", "ya29.", r"[\w-]{20,}+", "https://cloud.google.com/docs/authentication/token-types"),
    ("stripe-key", "sk_live_ sk_test_ rk_live_ rk_test_", r"[A-Za-z0-9]{16,}+", "https://docs.stripe.com/keys"),
    ("stripe-secret", "whsec_", r"[A-Za-z0-9+/=]{24,}+", "https://docs.stripe.com/webhooks"),
    ("1password-token", "ops_eyJ", r"[\w+/=-]{40,}+", "https://developer.1password.com/docs/service-accounts/security"),
    ("adobe-secret", "p8e-", r"[\w-]{32}" + _END, _GITLEAKS),
    ("age-key", "AGE-SECRET-KEY-1", r"[0-9A-Z]{40,}+", "https://age-encryption.org/v1"),
    ("apify-token", "apify_api_", r"[A-Za-z0-9]{20,}+", "https://docs.apify.com/platform/integrations/api"),
    ("atlassian-token", "ATATT3 ATCTT3 ATBB", r"[\w-]{24,}+(?:=[A-F0-9]{8})?", _GITHUB),
    ("buildkite-token", "bkua_ bkaj_ bkct_", r"[A-Za-z0-9]{20,}+", "https://buildkite.com/docs/platform/security/tokens"),
    ("circleci-token", "CCIPAT_ CCIPRJ_", r"\w{20,}+", "https://circleci.com/docs/guides/toolkit/managing-api-tokens/"),
    ("clojars-token", "CLOJARS_", r"[A-Za-z0-9]{40,}+", "https://github.com/clojars/clojars-web/wiki/Deploy-Tokens"),
    ("contentful-token", "CFPAT-", r"[\w-]{30,}+", "https://www.contentful.com/developers/docs/references/authentication/"),
    ("defined-key", "dnkey-", r"[A-Za-z0-9-]{40,}+", "https://docs.defined.net/api/defined-networking-api/"),
    ("digitalocean-token", "dop_v1_ doo_v1_ dor_v1_", r"[a-f0-9]{40,}+", "https://docs.digitalocean.com/reference/api/create-personal-access-token/"),
    ("docker-token", "dckr_pat_ dckr_oat_", r"[\w-]{20,}+", "https://docs.docker.com/security/access-tokens/"),
    ("doppler-token", "dp.pt. dp.st. dp.ct. dp.sa. dp.scim. dp.audit.", r"[\w.-]{20,}+", "https://docs.doppler.com/reference/auth-token-formats"),
    ("duffel-token", "duffel_live_ duffel_test_", r"[\w-]{30,}+", "https://duffel.com/docs/api/overview/test-mode"),
    ("dynatrace-token", "dt0c01. dt0s01. dt0s16.", r"[A-Z0-9]{8,24}\.[A-Z0-9]{40,}+", "https://docs.dynatrace.com/docs/dynatrace-api/basics/dynatrace-api-authentication"),
    ("figma-token", "figd_ figo_ figu_", r"[\w-]{30,}+", "https://developers.figma.com/docs/rest-api/authentication/"),
    ("flutterwave-key", "FLWSECK_TEST- FLWSECK-", r"[A-Za-z0-9]{20,}+(?:-X)?", "https://developer.flutterwave.com/docs/authentication"),
    ("fly-token", "fm1r_ fm1a_ fm2_ fo1_", r"[\w+/=-]{40,}+", "https://fly.io/docs/security/tokens/"),
    ("frameio-token", "fio-u-", r"[\w-]{40,}+", _GITLEAKS),
    ("grafana-token", "glc_eyJ", r"[\w+/=-]{20,}+", "https://grafana.com/docs/grafana-cloud/security-and-account-management/authentication-and-permissions/access-policies/"),
    ("grafana-token", "glsa_", r"\w{32,}+", "https://grafana.com/docs/grafana/latest/administration/service-accounts/"),
    ("groq-key", "gsk_", r"[A-Za-z0-9]{40,}+", "https://console.groq.com/docs/quickstart"),
    ("heroku-token", "HRKU-", r"[\w-]{30,}+", "https://devcenter.heroku.com/changelog-items/2842"),
    ("huggingface-token", "api_org_", r"[A-Za-z0-9]{30,}+", "https://huggingface.co/docs/hub/security-tokens"),
    ("intra42-secret", "s-s4t2ud- s-s4t2af-", r"[a-f0-9]{64}", _GITLEAKS),
    ("langfuse-key", "sk-lf-", _UUID, "https://langfuse.com/docs/api-and-data-platform/features/public-api"),
    ("langsmith-key", "lsv2_pt_ lsv2_sk_", r"[a-f0-9]{32}_[a-f0-9]{10}", "https://docs.langchain.com/langsmith/create-account-api-key"),
    ("linear-key", "lin_api_ lin_oauth_", r"[A-Za-z0-9]{32,}+", "https://linear.app/developers/graphql"),
    ("newrelic-key", "NRAK- NRII- NRAL-", r"[\w-]{20,}+", "https://docs.newrelic.com/docs/apis/intro-apis/new-relic-api-keys/"),
    ("notion-token", "ntn_", r"[A-Za-z0-9]{40,}+", "https://developers.notion.com/reference/authentication"),
    ("npm-token", "npm_", r"[A-Za-z0-9]{36}", "https://docs.github.com/en/code-security/secret-scanning/introduction/supported-secret-scanning-patterns"),
    ("nvidia-key", "nvapi-", r"[\w-]{40,}+", "https://docs.api.nvidia.com/nim/docs/api-quickstart"),
    ("openrouter-key", "sk-or-v1-", r"[a-f0-9]{40,}+", "https://openrouter.ai/docs/api-reference/authentication"),
    ("openshift-token", "sha256~", r"[\w-]{43}", "https://docs.redhat.com/en/documentation/openshift_container_platform/4.18/html/authentication_and_authorization/managing-oauth-access-tokens"),
    ("perplexity-key", "pplx-", r"[A-Za-z0-9]{32,}+", "https://docs.perplexity.ai/guides/getting-started"),
    ("plaid-token", "access-production- access-development- access-sandbox-", _UUID, "https://plaid.com/docs/api/items/"),
    ("planetscale-token", "pscale_tkn_ pscale_oauth_ pscale_pw_", r"[\w.-]{32,}+", "https://planetscale.com/docs/concepts/service-tokens"),
    ("posthog-key", "phx_", r"[A-Za-z0-9]{40,}+", "https://posthog.com/docs/api"),
    ("postman-key", "PMAK-", r"[a-f0-9]{24}-[a-f0-9]{34}", "https://learning.postman.com/docs/developer/postman-api/authentication/"),
    ("prefect-key", "pnu_ pnb_", r"[A-Za-z0-9]{36}", "https://docs.prefect.io/v3/how-to-guides/cloud/manage-users/api-keys"),
    ("pulumi-token", "pul-", r"[a-f0-9]{40}", "https://www.pulumi.com/docs/administration/access-identity/access-tokens/"),
    ("pypi-token", "pypi-AgE", r"[\w-]{40,}+", "https://docs.github.com/en/code-security/secret-scanning/introduction/supported-secret-scanning-patterns"),
    ("readme-key", "rdme_", r"[a-z0-9]{60,}+", "https://docs.readme.com/main/reference/authentication"),
    ("rubygems-key", "rubygems_", r"[a-f0-9]{48}", "https://guides.rubygems.org/api-key-scopes/"),
    ("scalingo-token", "tk-us-", r"[\w-]{48}", "https://developers.scalingo.com/tokens"),
    ("sendinblue-key", "xkeysib- xsmtpsib-", r"[a-f0-9]{64}-[A-Za-z0-9]{16}", "https://developers.brevo.com/docs/getting-started"),
    ("sentry-token", "sntrys_eyJ", r"[\w+/=-]{40,}+", "https://docs.sentry.io/account/auth-tokens/"),
    ("sentry-token", "sntryu_", r"[a-f0-9]{40,}+", "https://docs.sentry.io/account/auth-tokens/"),
    ("shippo-token", "shippo_live_ shippo_test_", r"[a-f0-9]{40}", "https://docs.goshippo.com/docs/guides_general/authentication/"),
    ("shopify-token", "shpat_ shpca_ shppa_ shpss_ shptka_", r"[A-Fa-f0-9]{32}", "https://shopify.dev/docs/apps/build/authentication-authorization/access-tokens"),
    ("sonarqube-token", "squ_ sqp_ sqa_", r"[a-f0-9]{40}", "https://docs.sonarsource.com/sonarqube-server/user-guide/managing-tokens/"),
    ("sourcegraph-token", "sgp_", r"(?:[a-f0-9]{16}_|local_)?[a-f0-9]{40}", "https://sourcegraph.com/docs/cli/how-tos/creating-an-access-token"),
    ("square-token", "sq0csp- sq0atp- sq0idp-", r"[\w-]{22,}+", "https://developer.squareup.com/docs/build-basics/access-tokens"),
    ("supabase-token", "sbp_ sb_secret_", r"[\w-]{30,}+", "https://supabase.com/docs/guides/api/api-keys"),
    ("tailscale-key", "tskey-", r"[A-Za-z0-9-]{20,}+", "https://tailscale.com/kb/1277/key-prefixes"),
    ("tavily-key", "tvly-", r"[A-Za-z0-9-]{28,}+", "https://docs.tavily.com/documentation/api-reference/introduction"),
    ("typeform-token", "tfp_", r"[\w.=-]{40,}+", "https://www.typeform.com/developers/get-started/personal-access-token/"),
    ("vault-token", "hvs. hvb. hvr.", r"[\w-]{20,}+", "https://developer.hashicorp.com/vault/docs/concepts/tokens"),
    ("xai-key", "xai-", r"[A-Za-z0-9]{60,}+", "https://docs.x.ai/docs/tutorial"),
    ("password-hash", "$2a$ $2b$ $2y$", r"\d\d\$[A-Za-z0-9./]{53}", _CRYPT),
    ("password-hash", "$apr1$ $1$", r"[A-Za-z0-9./]{1,8}\$[A-Za-z0-9./]{22}", _CRYPT),
    ("password-hash", "$5$ $6$ $y$",
        r"(?:rounds=\d{1,9}\$)?[A-Za-z0-9./]{1,16}\$(?:[A-Za-z0-9./]{1,86}\$)?[A-Za-z0-9./]{43,86}", _CRYPT),
    ("password-hash", "$argon2id$ $argon2i$ $argon2d$", r"[\w=,$+/]{40,}+", "https://github.com/P-H-C/phc-string-format/blob/master/phc-sf-spec.md"),
)
_BORDERED = (  # the same, for literals that words may have in them
    ("1password-key", "A3-", r"[A-Z0-9]{6}-(?:[A-Z0-9]{11}|[A-Z0-9]{6}-[A-Z0-9]{5})-[A-Z0-9]{5}-[A-Z0-9]{5}", "https://support.1password.com/secret-key/"),
    ("airtable-token", "pat", r"[A-Za-z0-9]{14}\.[a-f0-9]{64}", "https://airtable.com/developers/web/api/authentication"),
    ("alibaba-key-id", "LTAI", r"[A-Za-z0-9]{16,20}", "https://www.alibabacloud.com/help/en/ram/user-guide/create-an-accesskey-pair"),
    ("artifactory-key", "AKCp", r"[A-Za-z0-9]{69}", _GITLEAKS),
    ("artifactory-key", "cmVmd", r"[A-Za-z0-9]{59}", _GITLEAKS),
    ("aws-key", "ABSK", r"[A-Za-z0-9+/]{100,300}={0,2}", "https://docs.aws.amazon.com/bedrock/latest/userguide/api-keys.html"),
    ("clickhouse-key", "4b1d", r"[A-Za-z0-9]{38}", _GITLEAKS),
    ("cloudflare-key", "v1.0-", r"[a-f0-9]{24}-[a-f0-9]{146}", "https://developers.cloudflare.com/fundamentals/api/get-started/ca-keys/"),
    ("databricks-token", "dapi", r"[a-f0-9]{32}(?:-\d)?", "https://docs.databricks.com/aws/en/dev-tools/auth/pat"),
    ("easypost-key", "EZAK EZTK", r"[A-Za-z0-9]{54}", "https://docs.easypost.com/docs/authentication"),
    ("facebook-token", "EAA", r"[A-Za-z0-9]{100,600}", "https://developers.facebook.com/docs/facebook-login/guides/access-tokens/"),
    ("google-token", "1//0", r"[\w-]{40,200}", "https://developers.google.com/identity/protocols/oauth2"),
    ("huggingface-token", "hf_", r"[A-Za-z0-9]{30,40}", "https://huggingface.co/docs/hub/security-tokens"),
    ("infracost-key", "ico-", r"[A-Za-z0-9]{32}", _GITLEAKS),
    ("launchdarkly-token", "api-", _UUID, "https://launchdarkly.com/docs/home/account/api"),
    ("launchdarkly-key", "sdk-", _UUID, "https://launchdarkly.com/docs/sdk/concepts/client-side-server-side"),
    ("mailgun-key", "key-", r"[a-f0-9]{32}", "https://documentation.mailgun.com/docs/mailgun/user-manual/get-started/"),
    ("mapbox-token", "sk.eyJ", r"[\w-]{20,400}\.[\w-]{20,60}", "https://docs.mapbox.com/help/dive-deeper/access-tokens/"),
    ("notion-token", "secret_", r"[A-Za-z0-9]{43}", "https://developers.notion.com/reference/authentication"),
    ("octopus-key", "API-", r"[A-Z0-9]{24,36}", "https://octopus.com/docs/octopus-rest-api/how-to-create-an-api-key"),
    ("openai-key", "sk-", r"[A-Za-z0-9]{32,100}", "https://platform.openai.com/docs/api-reference/authentication"),
    ("replicate-token", "r8_", r"[A-Za-z0-9]{37}", "https://replicate.com/docs/topics/security/api-tokens"),
    ("sendgrid-key", "SG.", r"[\w-]{16,32}\.[\w-]{32,64}", "https://www.twilio.com/docs/sendgrid/ui/account-and-settings/api-keys"),
    ("square-token", "EAAA", r"[\w-]{58,62}", "https://developer.squareup.com/docs/build-basics/access-tokens"),
    ("twilio-key", "SK", r"[a-f0-9]{32}", "https://www.twilio.com/docs/iam/api-keys"),
    ("yandex-key", "AQVN", r"[\w-]{35,38}", "https://yandex.cloud/en/docs/iam/concepts/authorization/api-key"),
)
_AROUND = (  # label, the literal, bytes in front of it, the whole expression, source
    ("azure-secret", "Q~", 5, r"(?<![\w~.])[\w~.]{3}\dQ~[\w~.-]{31,34}", "https://learn.microsoft.com/en-us/purview/sit-defn-client-secret-api-key"),
    ("mailchimp-key", "-us", 33, _BORDER + r"[a-f0-9]{32}-us\d{1,2}" + _END, "https://mailchimp.com/developer/marketing/guides/quick-start/"),
    ("maxmind-key", "_mmk", 38, r"[A-Za-z0-9]{6}_[A-Za-z0-9]{29}_mmk", "https://dev.maxmind.com/license-key-format/"),
    ("telegram-token", ":AA", 11, r"(?<!\d)\d{8,10}:AA[\w-]{32,33}", "https://core.telegram.org/bots/api#authorizing-your-bot"),
    ("terraform-token", ".atlasv1.", 15, r"[A-Za-z0-9]{14}\.atlasv1\.[\w-]{60,70}", "https://developer.hashicorp.com/terraform/cloud-docs/users-teams-organizations/api-tokens"),
)
# fmt: on

JWT = Rule(
    "jwt",
    ("eyJ",),
    # The first part's length has a bound, so that one which no dot follows is read a bounded number of times.
    rb"eyJ[\w-]{6,8192}+(?:\.[\w-]++){1,4}+\.?",
    "https://www.rfc-editor.org/rfc/rfc7519#section-3",
)
AWS_ID = Rule(
    "aws-key-id",
    ("AKIA", "ASIA", "ABIA", "ACCA"),
    rb"A(?:[KS]IA|BIA|CCA)[A-Z0-9]{16}(?![A-Z0-9])",
    "https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html#identifiers-unique-ids",
)


def _rules() -> tuple[Rule, ...]:
    found = [JWT, AWS_ID]
    for rows, border, end in ((_PLAIN, "", ""), (_BORDERED, _BORDER, _END)):
        for label, literals, rest, source in rows:
            named = tuple(literals.split())
            start = "|".join(map(re.escape, named))
            found.append(Rule(label, named, f"{border}(?:{start}){rest}{end}".encode(), source))
    for label, literal, back, whole, source in _AROUND:
        found.append(Rule(label, (literal,), whole.encode(), source, back))
    return tuple(found)


RULES = _rules()
