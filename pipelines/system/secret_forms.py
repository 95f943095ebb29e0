"""How credentials look: their names, and their forms in text. Knows no values; `pipelines.system.secrets` does.

The tokens' prefixes and lengths are those that their issuers document: AWS ("IAM identifiers"), Azure (a storage account's key is
64 bytes in base64; "Azure DevOps PAT format"), Databricks, GitHub ("About authentication to GitHub"), GitLab ("Token overview"),
Google, Hugging Face, npm, PyPI, Docker, Slack, Stripe, SendGrid, OpenAI, Anthropic, HashiCorp Vault. JSON web tokens: RFC 7515.
PEM: RFC 7468.

The front door imports this under whatever Python the machine has, so it needs no more than 3.8.
"""

from __future__ import annotations

import re
from typing import Iterator

MASK = "***"

# A word that makes a name a credential's wherever it stands, unless the last word says that the value is only about one.
_SECRET = r"PASSWORDS?|PASSWD|PASSPHRASE|PASSCODE|SECRETS?|TOKENS?|CREDENTIALS?|CREDS?|APIKEYS?|JWT|BEARER"
_ABOUT = (
    r"(?:FILES?|PATH|DIR|FOLDER|NAME|TYPE|KIND|TTL|TIMEOUT|EXPIR\w*|LIFETIME|LENGTH|LEN|SIZE|LIMIT|COUNT|ENABLED|DISABLED|REQUIRED"
    r"|VERSION|ALGORITHM|HEADER|PROVIDER|SCOPES?|STORE|MANAGER|HELPER|PROMPT|POLICY|REGION|ARN|ENDPOINT|HOST|PORT|PARALLELISM)"
)
_SECRET_WORD = re.compile(rf"(?:^|_)(?:[A-Z0-9]*(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN)|{_SECRET})\d*(?:_|$)")
# Words that do so at the end of a name only.
_SECRET_END = re.compile(
    r"(?:(?:^|_)(?:AUTH|AUTHORIZATION|PAT|SAS|SIG|SIGNATURE|COOKIE|PSK|OTP|PW|DSN|CONN_?STR(?:ING)?|CONNECTION_?STRING"
    r"|AUTH_CONFIG|WEBHOOK|WEBHOOK_URL|SAS_UR[IL])|(?:^|_)[A-Z0-9]*PASS|_PWD|(?:MYSQL|DB|SQL|SSH|FTP|LDAP|SMTP|USER|ADMIN|ROOT)PWD"
    r"|_KEYS?(?:_(?:ID|BASE|BASE64|B64|HEX|PEM|JSON|DATA|CONTENTS?|VALUE|PRIMARY|SECONDARY|OLD|NEW))?"
    r"|(?:API|ACCESS|ACCOUNT|AUTH|ENCRYPTION|MASTER|PRIVATE|SAS|SECRET|SHARED|SIGNING|STORAGE)KEY)(?:_?\d+)?$"
)
_NO_SECRET = re.compile(
    rf"_{_ABOUT}$|(?:^|_)(?:PUBLIC|PUBLISHABLE)_KEYS?$|^(?:PRIMARY|FOREIGN|SORT|PARTITION|ROUTING|GROUP|CACHE)_KEYS?$"
    r"|ASKPASS|(?:BY|COM|SUR|TRES)PASS$|(?:^|_)(?:MAX|MIN|NUM|TOTAL|NEW)(?:_[A-Z]+)*_TOKENS$"
)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+")

# In text, the name of what follows after a colon or an equals sign.
_NAME = (
    r"(?:pass(?:words?|wd|phrase|code)|pwd|secret|token|jwt|credential|authorization|signature"
    r"|(?:api|access|account|secret|private|signing|encryption|storage|master|subscription|session|auth|client)[_ -]?key"
    r"|(?<![a-z])(?:sig|creds?)|(?<=[\"'])auth(?=\\*[\"'])|(?<!\w)_auth)(?:[_-]?(?:id|key|value|b64|base64|hex|\d+))?"
)
_SCHEMES = r"(?:(?:bearer|basic|token|digest|negotiate|apikey)\s+)?"
_VALUE = (
    r'(?:(?P<escaped>\\+")(?P<a>(?:(?!\\+").)+)|"(?P<b>(?:\\.|[^"\\\n])+)|\'(?P<c>(?:\\.|\'\'|[^\'\\\n])+)'
    r"|(?P<d>(?!(?:(?:bearer|basic) )?\*\*\*)(?:[^\s&;,\"'<>)\]}]|[\"'](?=\w))+))"
)
_ASSIGNMENT = re.compile(rf"(?i)(?P<name>{_NAME})(?P<sep>\\*[\"']?\s*(?:=>|:|=(?!=))\s*){_SCHEMES}{_VALUE}")
# Variables of an environment, as `env` and `docker inspect` print them.
_VARIABLE = re.compile(rf"(?<!\w)(?P<name>[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)(?P<sep>\\*[\"']?\s*[=:]\s*){_VALUE}")
_FLAG = re.compile(rf"(?i)(?<!\S)(?P<name>--?(?:[a-z0-9]+-)*{_NAME})(?P<sep>\s+)(?!-){_VALUE}")
# What stands there in Python.
_NO_VALUES = {MASK, "str", "bytes", "int", "float", "bool", "object", "Any", "None", "True", "False", "..."}
_COOKIE = re.compile(r"(?i)\b((?:set-)?cookie:[ \t]*)(?![ \t*])[^\r\n]+")
# Server=h;Uid=a;Pwd=b and Endpoint=sb://...;SharedAccessKey=...
_CONNECTION_STRING = re.compile(r"(?<![\w/])\w[\w ]{0,40}=[^;\n\"]*(?:;\s*\w[\w ]{0,40}=[^;\n\"]*)+")
_CONNECTION_SETTING = re.compile(r"(?:(?<=;)|^)(\s*\w[\w ]*=)([^;]+)")
_QUERY = re.compile(rf"(?i)(?P<name>(?<=[?&;])[\w.-]*{_NAME})(?P<sep>=){_VALUE}")

_URI = re.compile(r"(?i)\b([a-z][a-z0-9+.-]{0,30})(://)((?:(?![a-z][a-z0-9+.-]{0,30}://)[^\s\"<>`])+)")
# A value that is nothing but an address. Its password may hold spaces and quotes, too.
_WHOLE_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30})(://)((?:(?!://)[^\n])+)")
_WEB = re.compile(r"(?i)(?:.*\+)?(?:https?|wss?|ftps?)$")
_LOCAL = ("file", "dbfs")
_HOST_AND_REST = re.compile(
    r"(?:(?:[A-Za-z0-9-]+\.)+[A-Za-z0-9-]+|localhost|[A-Za-z0-9-]+(?=:\d)|\[[0-9A-Fa-f:.]{2,}\])(?::\d+)?(?=[/?#'\")\]},;]|\.?$)"
)
_HOST_WITH_PORT = re.compile(r"(?:[\w.-]*|\[[0-9A-Fa-f:.]+\]):\d{1,5}[/?#]")
_ORACLE = re.compile(r"(?<=:thin:)[^\s@/]+/[^\s@]+(?=@)")

_TOKENS = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:A3T[A-Z0-9]|AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Z0-9])"
    r"|dapi[0-9a-f]{32}(?:-\d+)?|dose[0-9a-f]{32}"
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}"
    r"|gl(?:pat|oas|dt|rt|rtr|cbt|ptt|ft|imt|agent|soat|ffct)-[A-Za-z0-9_.-]{16,}"
    r"|xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}"
    r"|(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/=]{20,}"
    r"|sk-(?:[a-z]+\d*-)*[A-Za-z0-9_-]{20,}"
    r"|hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{16,}|dckr_[po]at_[A-Za-z0-9_-]{20,}"
    r"|AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,}|GOCSPX-[A-Za-z0-9_-]{20,}"
    r"|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}|dop_v1_[0-9a-f]{40,}|hv[sbr]\.[A-Za-z0-9_-]{20,}"
    r"|[A-Za-z0-9]{3}\dQ~[A-Za-z0-9._~-]{31,34}|[A-Za-z0-9]{76}AZDO[A-Za-z0-9]{4}"
    r"|[A-Za-z0-9+/]{86}=="
    r"|eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){2,4}"
    r")|(?<=hooks\.slack\.com/services/)[A-Za-z0-9/]{20,}"
    r"|(?<=[Bb]earer )(?!\*\*\*)[A-Za-z0-9._~+/=-]{8,}|(?<=[Bb]asic )(?=[a-z+/]*[A-Z0-9=])[A-Za-z0-9+/=]{8,}"
)
# Of one that was cut off, all that is there. Line ends may be escaped.
_PEM = re.compile(
    r"-{4,5} ?BEGIN (?P<label>[A-Z0-9 ]+?) ?-{4,5}(?:.*?-{4,5} ?END (?P=label) ?-{4,5}|(?:\s|\\[nr]|[A-Za-z0-9+/=:,-])*)",
    re.DOTALL,
)


def is_secret_name(name: str) -> bool:
    """Whether a variable or key of this name holds a credential: MLFLOW_TRACKING_TOKEN, PGPASSWORD, accountKey, ..."""
    words = _HUMP.sub("_", name).upper().strip("_")
    if words in ("PWD", "OLDPWD") or _NO_SECRET.search(words):
        return False
    return bool(_SECRET_WORD.search(words) or _SECRET_END.search(words))


def mask_certain(text: str) -> str:
    """Mask what cannot be anything but a credential, so that names, paths and all other values stay as they are."""
    return _TOKENS.sub(MASK, _mask_structures(text))


def mask_likely(text: str, *, in_paths: bool = True) -> str:
    """Mask also what is written as the value of a password, token or key.

    Args:
        text: any text.
        in_paths: mask it even in a path, such as `/data/token=7/a.txt`.
    """
    text = _mask_structures(text)
    if "=" in text or ":" in text:
        text = _ASSIGNMENT.sub(_masked_assignment if in_paths else _masked_outside_paths, text)
        text = _VARIABLE.sub(_masked_variable, text)
        text = _COOKIE.sub(rf"\g<1>{MASK}", text)
    if "-" in text:
        text = _FLAG.sub(_masked_assignment, text)
    return _TOKENS.sub(MASK, text)


def _mask_structures(text: str) -> str:
    """PEM blocks, URIs and connection strings."""
    text = _PEM.sub(MASK, text)
    if "://" in text:
        pattern = _WHOLE_URI if _WHOLE_URI.fullmatch(text) else _URI
        text = pattern.sub(lambda match: match[1] + match[2] + _masked_uri(match[1], match[3]), text)
    text = _ORACLE.sub(MASK, text)
    if ";" in text:
        text = _CONNECTION_STRING.sub(lambda match: _CONNECTION_SETTING.sub(_masked_setting, match[0]), text)
    return text


def parts(text: str) -> Iterator[str]:
    """The credentials that a text holds in one of the forms: a URI's password, tokens, values of passwords and keys."""
    for uri in (_WHOLE_URI if _WHOLE_URI.fullmatch(text) else _URI).finditer(text):
        password = uri[3][: _user_info(uri[1], uri[3])]
        # A user without a password is a token. Errors quote what a parser takes for the port or the host.
        password = password.partition(":")[2] or password
        yield from (password, *re.split("[/@?#:]", password))
    yield from (match[0] for match in _TOKENS.finditer(text))
    for pattern in (_ASSIGNMENT, _VARIABLE):
        for match in pattern.finditer(text):
            if (pattern is _ASSIGNMENT or is_secret_name(match["name"])) and not _in_path(match):
                yield _value(match)


def _masked_uri(scheme: str, rest: str) -> str:
    end = _user_info(scheme, rest)
    shown = MASK + rest[end:] if end else rest
    return shown if scheme.lower() in _LOCAL else _QUERY.sub(_masked_assignment, shown)


def _user_info(scheme: str, rest: str) -> int:
    """Length of the user and password that follow `scheme://`; 0 if there are none.

    A password may hold what it should not, such as `/`, `@`, `?` and `#`: SQLAlchemy takes it, and MLflow shows it in errors.
    """
    ends = [match.start() for match in re.finditer("@", rest)]
    user = re.match(r"[^/?#@:]*", rest)
    after = rest[user.end() :] if user else ""
    if not ends or rest[0] == "[" or after[:1] not in ("@", ":"):
        return 0
    web = _WEB.match(scheme) is not None
    if after[0] == "@" and not web:
        # abfss://container@account, ssh://git@host: a name alone. On the web it is a token.
        return 0
    host = next((end for end in ends if _HOST_AND_REST.match(rest, end + 1)), 0)
    port = _HOST_WITH_PORT.match(rest)
    if port and port.end() <= ends[0] and ("." in port[0] or port[0].startswith("localhost:") or (web and not host)):
        return 0
    if web:
        return host or ends[-1]
    query = re.search(r"\?[\w.%+-]+=", rest)
    return max([end for end in ends if query is None or end < query.start()], default=ends[-1])


def _masked_assignment(match: re.Match[str]) -> str:
    value = _value(match)
    if value in _NO_VALUES or (match["name"].upper() == "PWD" and value.startswith("/")):
        return match[0]
    left = ""
    if match["d"] and _in_path(match):
        value, slash, left = value.partition("/")
        left = slash + left
    quote = match["escaped"] or ('"' if match["b"] else "'" if match["c"] else "")
    return f"{match['name']}{match['sep']}{quote}{MASK}{left}"


def _masked_setting(match: re.Match[str]) -> str:
    name = match[1].strip("= ")
    return match[1] + MASK if is_secret_name(name) or name.lower() == "pwd" else match[0]


def _masked_outside_paths(match: re.Match[str]) -> str:
    return match[0] if _in_path(match) else _masked_assignment(match)


def _masked_variable(match: re.Match[str]) -> str:
    name = match["name"]
    return _masked_assignment(match) if ("_" in name or len(name) > 4) and is_secret_name(name) else match[0]


def _value(match: re.Match[str]) -> str:
    return match["a"] or match["b"] or match["c"] or match["d"]


def _in_path(match: re.Match[str]) -> bool:
    """Whether a name is that of a folder, as Hive writes partitions."""
    before = re.search(r"[^\s\"'=,;:&|]*$", match.string[max(0, match.start() - 500) : match.start()])
    return before is not None and "/" in before[0] and "?" not in before[0] and "=" in match["sep"]
