"""Where secrets stand in conversations: files, commands, headers, prose. A `{}` is the secret's place."""

import base64
import json
import random
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import quote

_BY_NAME = {
    "environment file": "PORT=8080\nAPI_TOKEN={}\nDEBUG=1",
    "environment file, quoted": 'PORT=8080\nAPI_SECRET="{}"\nDEBUG=1',
    "environment file, apostrophes": "export DB_PASSWORD='{}'\nDEBUG=1",
    "export": "export GITHUB_TOKEN={} && make",
    "lower-case name": "db_host=db1\ndb_password={}\ndb_name=shop",
    "ini": "[client]\nuser = admin\npassword = {}\nhost = db1",
    "java properties": "spring.datasource.username=app\nspring.datasource.password={}\n",
    "yaml": "database:\n  user: app\n  password: {}\n  port: 5432",
    "yaml, quoted": 'database:\n  api_key: "{}"\n  port: 5432',
    "toml": '[service]\nclient_secret = "{}"\nretries = 3',
    "json": '{{"user": "app", "access_token": "{}", "expires_in": 3600}}',
    "json, list": '{{"api_version": 2, "apiKey": ["{}"]}}',
    "python keyword": 'client = connect(host="db1", password="{}", port=5432)',
    "python assignment": 'SECRET_KEY = "{}"\nDEBUG = True',
    "python dictionary": "config = {{'host': 'db1', 'password': '{}', 'port': 5432}}",
    "javascript object": 'const c = {{ host: "db1", authToken: "{}", port: 1 }};',
    "javascript template": "const apiKey = `{}`;\nrun(apiKey);",
    "go": 'cfg := Config{{Host: "db1", ClientSecret: "{}", Port: 1}}',
    "ruby": "config.client_secret = '{}'\nconfig.port = 1",
    "php": "$config['password'] = '{}';\n$config['port'] = 1;",
    "npmrc": "registry=https://packages.example\n//packages.example/:_authToken={}\n",
    "pypirc": "[shop]\nrepository = https://shop.example\nusername = __token__\npassword = {}\n",
    "netrc": "machine api.example login me password {}\nmachine other.example",
    "pgpass": "db1.example:5432:shop:app:{}\nlocalhost:*:*:me:nothing",
    "query": "GET https://api.example/v1/items?page=2&access_token={}&limit=5 HTTP/1.1",
    "form": "grant_type=client_credentials&client_secret={}&scope=read",
    "ado connection string": "Server=db1;Database=shop;User Id=app;Password={};Encrypt=yes;",
    "azure connection string": "DefaultEndpointsProtocol=https;AccountName=shop;AccountKey={};EndpointSuffix=core",
    "url": "postgresql://app:{}@db1.example:5432/shop?sslmode=require",
    "option": "mysqldump --user=app --password={} --host=db1 shop",
    "option, blank": "tool login --name me --token {} --verbose",
    "curl user": "curl -s -u admin:{} https://api.example/v1/items",
    "curl header": "curl -H 'X-Auth-Token: {}' https://api.example/v1/items",
    "header": "GET /v1 HTTP/1.1\nHost: api.example\nX-Api-Key: {}\nAccept: */*",
    "bearer": "GET /v1 HTTP/1.1\nAuthorization: Bearer {}\nAccept: */*",
    "cookie": "GET /v1 HTTP/1.1\nCookie: session={}\nAccept: */*",
    "kubernetes variable": "env:\n  - name: DB_PASSWORD\n    value: {}\n  - name: PORT",
    "ecs variable": '{{"environment": [{{"name": "API_TOKEN", "value": "{}"}}, {{"name": "PORT", "value": "1"}}]}}',
    "xml element": "<server><username>me</username><password>{}</password></server>",
    "xml attribute": '<add key="ClientSecret" value="{}" />\n<add key="Port" value="1" />',
    "dockerfile": "FROM base\nENV API_TOKEN={}\nRUN make",
    "docker run": "docker run -e POSTGRES_PASSWORD={} -p 1:1 postgres",
    "terraform": 'variable "db_password" {{\n  default = "{}"\n}}',
    "wireguard": "[Interface]\nAddress = 10.0.0.2/32\nPrivateKey = {}\nListenPort = 51820",
    "jwk": '{{"kty": "oct", "kid": "one", "k": "{}"}}',
    "log line": "12:01:07 INFO connecting user=app token={} retry=2",
    "shell variable": 'token="{}"\ncurl "$url"',
    "powershell": '$env:API_KEY = "{}"\nInvoke-Thing',
}
_BASE64 = {
    "kubernetes secret": "kind: Secret\ndata:\n  username: YXBw\n  password: {}\n",
}
_DOCKER = {"docker auth": '{{"auths": {{"registry.example": {{"auth": "{}"}}}}}}'}
_PLAIN = {
    "prose": "Please use {} for the deployment and tell me.",
    "code span": "The value is `{}`, as before.",
    "table": "| name | {} | yes |",
    "path": "see https://api.example/hook/{}/run for more",
    "terminal": "\x1b[32m{}\x1b[0m done",
}


class Context(NamedTuple):
    """A place for a secret, and how it is written there. In one that is not `named` only its form gives it away."""

    name: str
    template: str
    written: Callable[[str], str]
    named: bool

    def around(self, value: str) -> tuple[str, str]:
        """The text, and the secret as it stands in it."""
        written = self.written(value)
        return self.template.format(written), written


def _as_is(value: str) -> str:
    return value


def _in_base64(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


def _with_user(value: str) -> str:
    return _in_base64(f"me:{value}")


def _in_url(value: str) -> str:
    return quote(value, safe="")


_WRITTEN = {"query": _in_url, "form": _in_url, "url": _in_url}


def _all(templates: Mapping[str, str], written: Callable[[str], str] = _as_is, *, named: bool) -> list[Context]:
    return [Context(name, template, _WRITTEN.get(name, written), named) for name, template in templates.items()]


CONTEXTS = (
    *_all(_BY_NAME, named=True),
    *_all(_BASE64, _in_base64, named=True),
    *_all(_DOCKER, _with_user, named=True),
    *_all(_PLAIN, named=False),
)

WRAPS: dict[str, Callable[[str], str]] = {
    "text": lambda text: text,
    "in a message": lambda text: json.dumps({"role": "user", "content": text}),
    "in a tool's input": lambda text: json.dumps({"partial_json": json.dumps({"content": text})}),
}


def source(*names: object) -> random.Random:
    """Chance that is the same in every run."""
    return random.Random("/".join(map(str, names)))
