"""Credentials are found before they are sent, and ordinary code is left alone. No whole secret is in this file."""

import time

import pytest

from magicoder.seeds.corpora import find_standard_library
from magicoder.seeds.credentials import find_credential
from magicoder.seeds.local_code import draw_local_snippets
from magicoder.seeds.sampling import KEEP_ALL
from magicoder.seeds.snippets import Snippet

LETTERS = "aB3dE5fG7hJ9kL2mN4pQ6rS8tU0vW1xY"
KEY_TYPE = "PRIVATE " + "KEY"

SECRETS = {
    "AWS Access Key": "AKIA" + "Q3EGBRU4W2NVTYHO",
    "GitHub Token": "ghp_" + LETTERS + "zZ12",
    "fine-grained GitHub Token": "github_pat_" + LETTERS,
    "Slack Token": "xoxb-" + "123456789012-123456789012-" + LETTERS[:24],
    "Stripe Access Key": "sk_live_" + LETTERS[:24],
    "OpenAI Token": "sk-" + "proj-" + LETTERS,
    "Anthropic Token": "sk-" + "ant-api03-" + LETTERS,
    "Google API Key": "AIza" + LETTERS + "abc",
    "Hugging Face Token": "hf_" + LETTERS + "ab",
    "GitLab Token": "glpat-" + LETTERS[:20],
    "Basic Auth Credentials": "postgres://admin:" + "s3same-open" + "@db.internal/app",
    "Private Key": f"-----BEGIN RSA {KEY_TYPE}-----",
}


def find(text: str) -> str | None:
    found = find_credential(text, slice(0, len(text)))
    return None if found is None else found.kind


@pytest.mark.parametrize("kind", SECRETS)
def test_formats_of_keys_are_known_wherever_they_stand(kind: str) -> None:
    secret = SECRETS[kind]
    for text in (f'client = Client("{secret}")\n', f"# old: {secret}\nimport os\n", f"export KEY={secret}\n"):
        assert find(text) is not None, kind
    padding = "import os\n" * 5
    found = find_credential(f"{padding}x = '{secret}'\n{padding}", slice(0, 10**6))
    assert found is not None
    assert found.position >= len(padding)


@pytest.mark.parametrize(
    "line",
    [
        'PASSWORD = "hunter2' + '-not-tracked"',
        "'db_password': 'tr0ub4" + "dor&3',",
        'string secretKey = "' + LETTERS + '";',
        'access_token = "' + LETTERS + '"',
        'headers = {"Authorization": "Bearer ' + LETTERS + '"}',
        'password: str = "hunter2' + '-not-tracked"',
        'const API_KEY: &str = "' + LETTERS + '";',
        "export DB_PASSWORD=hunter2" + "-not-tracked",
        'passwd = "P@ss' + 'w!rd"',
    ],
)
def test_literal_beside_a_word_for_it_is_a_secret(line: str) -> None:
    assert find(f"import os\n{line}\n") is not None


@pytest.mark.parametrize(
    "line",
    [
        "password = getpass()",
        'password = os.environ["PASSWORD"]',
        'password = input("Password: ")',
        'PASSWORD_FIELD = "password"',
        'api_key = "{api_key}"',
        'api_key = "<your key 1>"',
        'secret = "..."',
        'url = f"https://{user}:{password}@{host}:80/"',
        'url = "https://%s:%s@host1" % pair',
        'digest = "da39a3ee5e6b4b0d3255bfef95601890afd80709"',
        'blob = "aGVsbG8gd29ybGQgMTIzNDU2Nzg5MGFiY2RlZg=="',
        'headers = {"Authorization": f"Bearer {token}"}',
        'token = "IDENTIFIER"',
        "TOKEN=$(cat /run/secrets/token1)",
        "PASSWORD=${PASSWORD:-default1}",
        'def login(password: str = "", key_size: int = 2048, name="user01"):',
        "client = Client(user=user1, password=password1)",
        'uuid = "123e4567-e89b-12d3-a456-426614174000"',
        "key = lambda pair: pair[1]",
        'author = "a@example.org"',
    ],
)
def test_ordinary_code_holds_no_secret(line: str) -> None:
    assert find(f"import os\n{line}\n") is None


VALUE = "hunt3r-" + "2x!not"
DIGITS = "8675" + "309042"
MISSED = [
    *(f"export API_TOKEN={VALUE} # prod", f"PGPASSWORD={VALUE} psql -h x", f"export DB_PASSWORD={VALUE}\r"),
    *(f"docker run -e DB_PASSWORD={VALUE} img", f"password={VALUE}", f"curl -s -u admin:{VALUE} https://a.example"),
    *(f'dsn = "Server=db;User Id=app;Password={VALUE};"', f'dsn = "Password={VALUE};Server=db"'),
    *(f"define('DB_PASSWORD', '{VALUE}');", f'source.setPassword("{VALUE}");', f'#define PASSWORD "{VALUE}"'),
    *(f'key = os.environ.get("API_KEY", "{VALUE}")', f'const key = process.env.API_KEY || "{VALUE}";'),
    *(f'get(url, auth=("admin", "{VALUE}"))', 'password = "P4$sw' + '0rd!x"', 'password = "a<b%c{d' + '9"'),
    *(f'password = "{DIGITS}"', f"PASSWORD={DIGITS}", "GOCSPX-" + LETTERS, "gsk_" + LETTERS, "hvs." + LETTERS),
    *("dapi" + "0123456789abcdef" * 2, "shpat_" + "0123456789abcdef" * 2, "dop_v1_" + "0123456789abcdef" * 4),
    *("Authorization: Basic " + LETTERS[:20] + "==", 'headers = {"Authorization": "Basic ' + LETTERS[:20] + '"}'),
    f'if "{VALUE}" == password:',
]


@pytest.mark.parametrize("line", MISSED)
def test_secret_in_the_form_of_another_language_is_found(line: str) -> None:
    assert find(f"import os\n{line}\nimport re\n") is not None


@pytest.mark.parametrize(
    "line",
    [
        'tokenizer = "deepseek-ai/deepseek-coder-6.7b-base"',
        'token_model = "deepseek-ai/deepseek-coder-6.7b-base"',
        'secret = "/var/run/secrets/kubernetes.io/token1"',
        'private_key = "certs/server1-key.pem"',
        'PASSWORD_HASHER = "pbkdf2_sha256"',
        'AUTH_KEY_TYPE = "ssh-ed25519"',
        'API_KEY_HEADER = "X-API-Key-2"',
        "class IEEEFloat final : public APFloatBase {",
        'url = "ssh://git:22@host/a"',
        'password = "${DB_PASSWORD1}"',
        'password = "$PASSWORD1"',
        'password = "user1-%s"',
        'password = "pre1-{name}"',
        'password = "<password-1>"',
        "f(\n    password=password1\n)",
    ],
)
def test_name_path_or_template_is_no_secret(line: str) -> None:
    assert find(f"import os\n{line}\n") is None


def test_middle_of_a_private_key_is_a_secret() -> None:
    body = f"{LETTERS}{LETTERS}\n" * 10
    document = f"import os\nKEY = '''\n-----BEGIN {KEY_TYPE}-----\n{body}-----END {KEY_TYPE}-----\n'''\nprint(KEY)\n"
    middle = document.index(body) + 200
    found = find_credential(document, slice(middle, middle + 60))
    assert found is not None
    assert (found.kind, found.position) == ("Private Key", middle)
    assert find_credential(document, slice(0, 9)) is None
    assert find_credential(document, slice(document.index("print"), len(document))) is None


def test_private_key_without_end_goes_on_while_its_lines_do() -> None:
    body = f"{LETTERS}{LETTERS}\n" * 10
    document = f"-----BEGIN {KEY_TYPE}-----\n{body}"
    assert find_credential(document, slice(len(document) - 120, len(document))) is not None
    code = f'if line == "-----BEGIN {KEY_TYPE}-----":\n    return None\nimport os\nimport re\n'
    assert find_credential(code, slice(code.index("import re"), len(code))) is None


def test_hostile_text_takes_milliseconds() -> None:
    fillers = ("password" + " " * 500_000, "api_key" + " " * 900, "password" * 120, "password " * 120, "= 'a" * 250)
    for text in (*fillers, "set" * 300, "a=b;" * 250, "curl " * 200, "Server=a;" * 120, "%(" * 500, "AKC" * 400):
        began = time.process_time()
        find(text)
        assert time.process_time() - began < 1, text[:20]
    document = f"-----BEGIN {KEY_TYPE}-----\n" * 30_000
    began = time.process_time()
    for start in range(0, 10**6 // 2, 1000):
        find_credential(document, slice(start + 5, start + 20))
    assert time.process_time() - began < 5


def test_endless_lines_are_searched_in_time() -> None:
    secret = SECRETS["GitHub Token"]
    for filler in ("sk-", "password = ", "eyJ", "token='a", "x:://a:b"):
        text = filler * (300_000 // len(filler))
        began = time.process_time()
        find(text)
        assert time.process_time() - began < 10, filler
    for place in range(0, 2000, 97):
        assert find("x " * place + secret + " y" * 2000) == "GitHub Token"


def test_standard_library_is_hardly_touched_and_fast() -> None:
    settings = {"at_most": 400, "near_duplicates": False, "licenses": None, "chunk_size": 1000, "seed": 976}
    drawn = draw_local_snippets(
        *(find_standard_library(), "python"),
        **{**settings, "unit": "lines", "min_lines": 15, "max_lines": 15, "untracked": True, "span_filter": KEEP_ALL},
    )
    texts = [item.text for item in drawn if isinstance(item, Snippet)]
    find(texts[0])  # loads the detectors
    began = time.process_time()
    found = [text for text in texts if find(text) is not None]
    assert (time.process_time() - began) / len(texts) < 0.003
    assert len(found) <= 1
