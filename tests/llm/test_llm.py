"""Language-model back-ends against a real HTTP server on loopback, the cache, and the command that fills it."""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import open_clip
import pytest
import transformers

from zsad.cli.prompts import main
from zsad.llm import (
    PACKAGED,
    AnswerCache,
    HFLocalLLM,
    LLMError,
    LLMWarning,
    OfflineError,
    OpenAICompatibleLLM,
    PackagedLLM,
    default_cache_dir,
    llm_config,
    load_llm,
)
from zsad.methods.alfa.prompts import PromptWriter, load_alfa_prompts

KEY = "sk-loopback-secret-0123456789"
Reply = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]

_TOKENIZER = open_clip.SimpleTokenizer()


class Server:
    """Answers requests with the scripted replies in turn, the last one again and again; remembers what came."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                number = len(outer.requests)
                outer.requests.append(body)
                outer.headers.append({key.lower(): value for key, value in self.headers.items()})
                outer.paths.append(self.path)
                outer.replies[min(number, len(outer.replies) - 1)](self, body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def raw(status: int, body: bytes, length: int | None = None, **headers: str) -> Reply:
    def reply(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    return reply


def chat(*texts: str, finish: str = "stop") -> Reply:
    choices = [{"message": {"role": "assistant", "content": text}, "finish_reason": finish} for text in texts]
    return raw(200, json.dumps({"choices": choices}).encode())


def fail(status: int, message: str = "try later", **headers: str) -> Reply:
    return raw(status, json.dumps({"error": {"message": message}}).encode(), None, **headers)


def sentences(label: str, count: int, start: int = 0) -> str:
    article = {"normal": "A", "abnormal": "An"}[label]
    return "\n".join(
        f"{article} {label} image of a widget with feature number {i}." for i in range(start, start + count)
    )


def by_label(count: int = 20) -> Reply:
    """A well-behaved model: as many sentences as wanted, with the right beginning."""

    def reply(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        label = "abnormal" if "abnormal" in request["messages"][0]["content"] else "normal"
        chat(sentences(label, count))(handler, request)

    return reply


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = Server()
    yield made
    made.close()


def model(server: Server, **options: Any) -> OpenAICompatibleLLM:
    return OpenAICompatibleLLM("test-model", server.url, **{"backoff_s": 0.01, "timeout_s": 5.0, **options})


def writer(llm: Any, directory: Path, mode: Any = "cache_first", **options: Any) -> PromptWriter:
    cache = AnswerCache(directory, mode)
    return PromptWriter(load_alfa_prompts(), llm, cache, lambda text: len(_TOKENIZER.encode(text)) + 2, **options)


# ---- the endpoint


def test_chat_request_and_answer(server: Server) -> None:
    server.replies = [chat("one\ntwo", "three")]
    assert model(server, temperature=0.3).complete("question?", n=2, seed=7) == ["one\ntwo", "three"]
    assert server.paths == ["/v1/chat/completions"]
    assert server.requests == [
        {
            "model": "test-model",
            "messages": [{"role": "user", "content": "question?"}],
            "temperature": 0.3,
            "max_tokens": 1024,
            "n": 2,
            "seed": 7,
        }
    ]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


def test_completions_endpoint_and_empty_key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "")
    server.replies = [raw(200, b'{"choices": [{"text": "an answer", "finish_reason": "stop"}]}')]
    assert model(server, endpoint="completions").complete("question?") == ["an answer"]
    assert server.paths == ["/v1/completions"]
    assert server.requests[0]["prompt"] == "question?"
    assert "authorization" not in server.headers[0]


def test_retry_after_in_seconds_is_honoured(server: Server) -> None:
    server.replies = [fail(429, Retry_After="1"), chat("answer")]
    start = time.monotonic()
    assert model(server).complete("q") == ["answer"]
    assert 1 <= time.monotonic() - start < 4
    assert len(server.requests) == 2


def test_retry_after_as_a_date(server: Server) -> None:
    date = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=2), usegmt=True)  # cut to whole seconds
    server.replies = [fail(503, Retry_After=date), chat("answer")]
    start = time.monotonic()
    assert model(server).complete("q") == ["answer"]
    assert 0.9 <= time.monotonic() - start < 5


def test_unreadable_retry_after_falls_back_to_the_pause(server: Server) -> None:
    server.replies = [fail(429, Retry_After="soon"), fail(429, Retry_After="-3"), chat("answer")]
    assert model(server).complete("q") == ["answer"]


def test_a_wait_of_hours_fails_at_once(server: Server) -> None:
    server.replies = [fail(429, "quota used up", Retry_After="7200")]
    with pytest.raises(LLMError, match=r"asks to wait 7200 s.*quota used up"):
        model(server).complete("q")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [408, 409, 500, 502, 503])
def test_transient_statuses_are_retried(server: Server, status: int) -> None:
    server.replies = [fail(status), fail(status), chat("answer")]
    assert model(server).complete("q") == ["answer"]
    assert len(server.requests) == 3


def test_endless_500s_give_one_clear_error(server: Server) -> None:
    server.replies = [fail(500, "out of memory")]
    with pytest.raises(LLMError, match=r"No answer from http.*'test-model'.*3 attempt.*HTTP 500: 'out of memory'"):
        model(server, retries=2).complete("q")
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 404, 422])
def test_other_4xx_fail_at_once_with_the_servers_message(server: Server, status: int) -> None:
    server.replies = [fail(status, "model not found: use another")]
    with pytest.raises(LLMError, match=rf"HTTP {status}: 'model not found: use another'"):
        model(server).complete("q")
    assert len(server.requests) == 1


def test_refused_key_is_not_quoted(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.replies = [fail(401, f"Incorrect API key provided: {KEY}")]
    with pytest.raises(LLMError, match=r"HTTP 401.*\*\*\*.*OPENAI_API_KEY, which is set") as caught:
        model(server).complete("q")
    assert KEY not in str(caught.value)
    monkeypatch.setenv("OPENAI_API_KEY", "")
    with pytest.raises(LLMError, match="which is not set"):
        model(server).complete("q")


def test_redirects_are_reported_not_followed(server: Server) -> None:
    server.replies = [raw(307, b"", Location="http://elsewhere.invalid/v2")]
    with pytest.raises(LLMError, match=r"HTTP 307.*points to http://elsewhere\.invalid/v2"):
        model(server).complete("q")


def test_time_out_is_retried_and_named(server: Server) -> None:
    stop = threading.Event()

    def hang(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        stop.wait(10)

    server.replies = [hang, chat("answer")]
    assert model(server, timeout_s=0.3).complete("q") == ["answer"]
    server.requests.clear()
    with pytest.raises(LLMError, match=r"no answer within 0\.3 s"):
        model(server, timeout_s=0.3, retries=0).complete("q")
    stop.set()


def test_a_dripping_server_times_out_too(server: Server) -> None:
    def drip(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(40):
            try:
                handler.wfile.write(b" ")
            except OSError:
                return
            time.sleep(0.05)

    server.replies = [drip]
    start = time.monotonic()
    with pytest.raises(LLMError, match=r"not complete after 0\.4 s"):
        model(server, timeout_s=0.4, retries=0).complete("q")
    assert time.monotonic() - start < 1.8


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (raw(200, b"<html>gateway</html>"), "not an answer of a chat endpoint: '<html>gateway</html>'"),
        (raw(200, b'{"choices": [{"message": {"content": "An abn'), "not an answer"),  # truncated JSON
        (raw(200, b'{"choices": []}'), "without text"),
        (raw(200, b'{"choices": [{"message": {"content": null}}]}'), "without text"),
        (raw(200, b'{"choices": 3}'), "not an answer"),
        (raw(200, b"[" * 100_000), "not an answer"),
        (raw(200, bytes(range(256))), "not an answer"),
        (raw(200, b'{"choices": [', length=500), "RemoteProtocolError"),
        (raw(200, b"no gzip", Content_Encoding="gzip"), "DecodingError"),
    ],
    ids=["html", "truncated", "no choices", "null", "number", "nested", "binary", "body cut off", "bad encoding"],
)
def test_garbage_is_retried_then_named(server: Server, reply: Reply, words: str) -> None:
    server.replies = [reply, chat("answer")]
    assert model(server).complete("q") == ["answer"]
    server.requests.clear()
    with pytest.raises(LLMError, match=words):
        model(server, retries=0).complete("q")


def test_an_endless_answer_is_cut(server: Server) -> None:
    server.replies = [raw(200, b" " * (9 * 2**20))]
    with pytest.raises(LLMError, match="larger than"):
        model(server, retries=0).complete("q")


def test_nobody_listens(server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    llm = OpenAICompatibleLLM("m", f"http://127.0.0.1:{port}/v1", retries=1, backoff_s=0.01)
    with pytest.raises(LLMError, match=r"2 attempt.*ConnectError"):
        llm.complete("q")


def test_many_classes_offline_fail_in_few_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slept: list[float] = []
    attempts: list[object] = []

    def unreachable(self: httpx.Client, *arguments: object, **options: object) -> object:
        attempts.append(arguments)
        raise httpx.ConnectError("[Errno -3] Temporary failure in name resolution")

    monkeypatch.setattr(httpx.Client, "stream", unreachable)
    monkeypatch.setattr("zsad.llm.endpoint.time.sleep", slept.append)
    arguments = ["--llm", "openai:m", "--option", "base_url=https://nobody.invalid/v1", "--cache-dir", str(tmp_path)]
    assert main(["--classes", *(f"part {n}" for n in range(20)), *arguments]) == 1
    assert len(attempts) == 2
    assert sum(slept) < 3
    said = capsys.readouterr().err
    assert "name resolution" in said
    assert "could not be reached a moment ago and is not asked again yet" in said


def test_a_local_model_that_cannot_be_loaded_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def offline(name: str, **options: object) -> object:
        tried.append(name)
        raise OSError("We couldn't connect to the hub")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", offline)
    llm = HFLocalLLM("nobody/nothing")
    for _ in range(3):
        with pytest.raises(LLMError, match="cannot be loaded: We couldn't connect"):
            llm.complete("q")
    assert tried == ["nobody/nothing"]


def test_a_line_cut_by_the_length_limit_is_dropped(server: Server) -> None:
    server.replies = [chat("whole\nwhole too\ncut of", finish="length")]
    assert model(server).complete("q") == ["whole\nwhole too"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base_url": "http://user:pw@host/v1"}, "no user name, password"),
        ({"base_url": "https://host/v1?api-key=abc"}, "no user name, password"),
        ({"base_url": "host/v1"}, "must look like"),
        ({"endpoint": "responses"}, "'chat' or 'completions', got 'responses'"),
        ({"retries": -1}, "retries must be at least 0, got -1"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"model": ""}, "model"),
    ],
)
def test_options_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        OpenAICompatibleLLM(**{"model": "m", **options})
    assert "pw" not in str(caught.value)
    assert "abc" not in str(caught.value)


def test_a_key_that_breaks_headers_is_refused_unseen(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-two\nlines")
    with pytest.raises(ValueError, match="OPENAI_API_KEY holds characters") as caught:
        model(server).complete("q")
    assert "sk-two" not in str(caught.value)


# ---- cache


def test_second_run_needs_no_network(server: Server, tmp_path: Path) -> None:
    server.replies = [by_label()]
    first = writer(model(server), tmp_path).write("widget")
    assert len(server.requests) == 2
    assert (len(first.normal), len(first.abnormal)) == (92, 92)
    for mode in ("cache_first", "offline"):
        assert writer(model(server), tmp_path, mode).write("widget") == first
        assert (
            writer(OpenAICompatibleLLM("test-model", "http://127.0.0.1:9/v1"), tmp_path, mode).write("widget") == first
        )
    assert len(server.requests) == 2


def test_refresh_asks_again_and_replaces(server: Server, tmp_path: Path) -> None:
    server.replies = [by_label(20), by_label(20), by_label(30)]
    writer(model(server), tmp_path).write("widget")
    assert len(writer(model(server), tmp_path, "refresh").write("widget").normal) == 102
    assert len(server.requests) == 4
    assert len(writer(model(server), tmp_path, "offline").write("widget").normal) == 102


def test_offline_miss_names_the_query(server: Server, tmp_path: Path) -> None:
    with pytest.raises(OfflineError, match=r"How to identify a normal widget in an image\?.*'offline'"):
        writer(model(server), tmp_path, "offline").write("widget")
    assert not server.requests


def test_cache_file_holds_what_the_specification_says(server: Server, tmp_path: Path) -> None:
    server.replies = [by_label()]
    writer(model(server), tmp_path).write("widget")
    (path, _) = sorted(tmp_path.iterdir())
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert set(stored) == {"model", "query", "temperature", "max_tokens", "n", "seed", "texts", "time", "zsad"}
    assert path == AnswerCache(tmp_path).path(
        {key: stored[key] for key in ("model", "query", "temperature", "max_tokens", "n", "seed")}
    )
    assert "127.0.0.1" not in path.read_text(encoding="utf-8")


def test_key_of_the_cache_depends_on_every_field() -> None:
    cache = AnswerCache("somewhere")
    base = cache.request(OpenAICompatibleLLM("m"), "q", 1, 0)
    variants = [
        {**base, field: value} for field, value in (("model", "x"), ("query", "r"), ("temperature", 0.1), ("seed", 1))
    ]
    assert len({cache.path(one) for one in [base, *variants]}) == 5
    elsewhere = cache.request(OpenAICompatibleLLM("m", "http://localhost:1/v1"), "q", 1, 0)
    assert cache.path(elsewhere) == cache.path(base)


@pytest.mark.parametrize("content", ["", "{", '{"texts": ["x"]}', '"text"', "[]"])
def test_a_damaged_cache_file_is_asked_for_again(server: Server, tmp_path: Path, content: str) -> None:
    server.replies = [by_label()]
    first = writer(model(server), tmp_path).write("widget")
    for path in tmp_path.iterdir():
        path.write_text(content, encoding="utf-8")
    with pytest.raises(OfflineError, match="damaged"):
        writer(model(server), tmp_path, "offline").write("widget")
    assert writer(model(server), tmp_path).write("widget") == first
    assert len(server.requests) == 4
    assert writer(model(server), tmp_path, "offline").write("widget") == first


def test_an_unwritable_cache_loses_no_answer(server: Server, tmp_path: Path) -> None:
    server.replies = [by_label()]
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    with pytest.warns(LLMWarning, match="could not be cached"):
        assert len(writer(model(server), blocked).write("widget").normal) == 92


def test_unusable_answers_never_enter_the_cache(server: Server, tmp_path: Path) -> None:
    server.replies = [chat("I am sorry, I cannot help with that.")]
    asking = writer(model(server), tmp_path)
    with pytest.warns(LLMWarning, match=r"no usable answer in 3 rounds; the packaged"):
        prompts = asking.write("widget")
    assert len(server.requests) == 6
    assert [request["seed"] for request in server.requests[:3]] == [0, 1, 2]
    assert not list(tmp_path.iterdir())
    assert prompts.normal[72] == "A normal image of a widget with no visible defects."
    assert asking.stand_ins == {("widget", "normal"), ("widget", "abnormal")}


def test_a_failure_half_way_keeps_what_was_usable(server: Server, tmp_path: Path) -> None:
    server.replies = [chat(sentences("normal", 5)), fail(500)]
    with pytest.raises(LLMError, match="HTTP 500"):
        writer(model(server, retries=1), tmp_path).write("widget")
    assert len(list(tmp_path.iterdir())) == 1
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".json"]


def test_rounds_fill_up_to_the_minimum_and_are_all_cached(server: Server, tmp_path: Path) -> None:
    server.replies = [chat("nothing"), chat(sentences("normal", 9)), chat(sentences("normal", 9, 5)), by_label()]
    with pytest.warns(LLMWarning, match="only 14 usable answers, 16 were asked for"):
        first = writer(model(server), tmp_path).write("widget")
    assert len(first.normal) == 72 + 14
    with pytest.warns(LLMWarning, match="only 14"):
        assert writer(model(server), tmp_path, "offline").write("widget") == first
    assert len(server.requests) == 4


def test_two_hundred_words_are_left_out_with_a_warning(server: Server, tmp_path: Path) -> None:
    long = "A normal image of a widget " + "with a very long description " * 40
    server.replies = [chat(f"{long}\n{sentences('normal', 16)}"), by_label()]
    with pytest.warns(LLMWarning, match=r"1 sentence\(s\) of more than 77 CLIP tokens"):
        prompts = writer(model(server), tmp_path).write("widget")
    assert len(prompts.normal) == 88
    assert all(len(_TOKENIZER.encode(text)) + 2 <= 77 for side in prompts for text in side)


def test_an_endless_word_costs_no_time(server: Server, tmp_path: Path) -> None:
    server.replies = [chat("A normal image of a " + "x" * 500_000 + "\n" + sentences("normal", 16)), by_label()]
    start = time.monotonic()
    with pytest.warns(LLMWarning, match="CLIP tokens"):
        writer(model(server), tmp_path).write("widget")
    assert time.monotonic() - start < 5


def test_more_than_the_maximum_keeps_the_first(server: Server, tmp_path: Path) -> None:
    server.replies = [by_label(200)]
    prompts = writer(model(server), tmp_path).write("widget")
    assert len(prompts.normal) == 72 + 144
    assert prompts.normal[-1].endswith("number 143.")
    assert len(writer(model(server), tmp_path, max_per_label=20).write("widget").normal) == 92


def test_a_class_is_asked_for_once_per_run(server: Server, tmp_path: Path) -> None:
    server.replies = [by_label()]
    asking = writer(model(server), tmp_path, "refresh")
    assert asking.write("widget") is asking.write("widget")
    assert len(server.requests) == 2


def test_the_key_is_nowhere(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    server.replies = [
        fail(500, f"you sent {KEY}"),
        chat(sentences("normal", 20) + f"\nA normal image of a widget with {KEY} on it"),
        by_label(),
    ]
    llm = model(server)
    with caplog.at_level(logging.DEBUG):
        prompts = writer(llm, tmp_path).write("widget")
    seen = [caplog.text, repr(llm), json.dumps(llm_config(llm)), *prompts.normal, *capsys.readouterr()]
    seen += [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()]
    assert "HTTP Request" in caplog.text
    assert not [text for text in seen if KEY in text]


def test_default_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "zsad" / "llm" == AnswerCache().directory
    with pytest.raises(ValueError, match="cache mode must be one of"):
        AnswerCache(mode="always")  # type: ignore[arg-type]


# ---- packaged answers and choosing


def test_packaged_answers(tmp_path: Path) -> None:
    llm = PackagedLLM()
    assert llm.name == PACKAGED
    assert len(llm.complete("", class_name="bottle", label="abnormal")) == 16
    assert len(llm.complete("", class_name="unheard_of", label="normal")) == 20
    with pytest.raises(ValueError, match="got 'broken'"):
        llm.complete("", class_name="bottle", label="broken")
    writer(llm, tmp_path / "unused").write("bottle")
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize(
    "llm",
    [
        PackagedLLM(),
        OpenAICompatibleLLM("m", "http://localhost:8000/v1", endpoint="completions"),
        HFLocalLLM("folder", "main"),
    ],
)
def test_config_is_plain_and_round_trips(llm: Any) -> None:
    config = llm_config(llm)
    assert load_llm(json.loads(json.dumps(config))) == llm
    assert load_llm(llm) is llm


def test_a_users_own_model_is_taken_and_cached(tmp_path: Path) -> None:
    class Mine:
        name = "mine"
        calls = 0

        def complete(self, query: str, *, class_name: str, label: str, n: int, seed: int) -> list[str]:
            self.calls += 1
            return [sentences(label, 17)]

    mine = Mine()
    assert load_llm(mine) is mine
    assert llm_config(mine) == "mine"
    assert len(writer(mine, tmp_path).write("widget").normal) == 89
    writer(mine, tmp_path, "offline").write("widget")
    assert mine.calls == 2


@pytest.mark.parametrize(
    ("llm", "error", "words"),
    [
        ("gpt-4", ValueError, "Unknown language model 'gpt-4'"),
        ("openai", ValueError, "missing 1 required positional argument: 'model'"),
        ({"backend": "openai", "model": "m", "api_key": "x"}, ValueError, "unexpected keyword argument 'api_key'"),
        (3, TypeError, "got int"),
    ],
)
def test_unknown_models_are_named(llm: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        load_llm(llm)


# ---- a local model


@pytest.fixture(scope="module")
def local_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer GPT-2 with a word-level tokenizer: the real loading and sampling code in milliseconds."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    words = ["<end>", "<unk>", "how", "to", "identify", "a", "normal", "abnormal", "widget", "in", "an", "image"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unk>").save_pretrained(folder)
    config = GPT2Config(vocab_size=tokenizer.get_vocab_size(), n_positions=64, n_embd=16, n_layer=2, n_head=2,
                        eos_token_id=0, bos_token_id=0)  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_local_model_samples_by_seed(local_model: Path) -> None:
    llm = HFLocalLLM(str(local_model), device="cpu", max_new_tokens=12)
    first = llm.complete("how to identify a widget", n=2, seed=1)
    assert len(first) == 2
    assert llm.complete("how to identify a widget", n=2, seed=1) == first
    assert llm.complete("how to identify a widget", n=2, seed=2) != first
    assert not any(text.startswith("how to identify") and "widget" in text.split()[:4] for text in first)


def test_local_model_uses_its_chat_template(local_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    llm = HFLocalLLM(str(local_model), device="cpu", max_new_tokens=4)
    tokenizer, _ = llm._loaded
    assert isinstance(tokenizer, type(AutoTokenizer.from_pretrained(local_model)))
    plain = llm.complete("widget", seed=0)
    tokenizer.chat_template = "{% for m in messages %}how to identify {{ m['content'] }} in an image{% endfor %}"
    assert llm.complete("widget", seed=0) == [
        HFLocalLLM(str(local_model), device="cpu", max_new_tokens=4).complete(
            "how to identify widget in an image", seed=0
        )[0]
    ]
    assert isinstance(plain[0], str)


def test_local_model_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LLMError, match="cannot be loaded"):
        HFLocalLLM(str(tmp_path)).complete("q")
    with pytest.raises(ValueError, match="dtype must name a torch dtype"):
        HFLocalLLM(str(tmp_path), dtype="half-ish").complete("q")
    with pytest.raises(ValueError, match="temperature must be above 0"):
        HFLocalLLM("m", temperature=0)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(LLMError, match=r"pip install 'zsad\[llm\]'"):
        HFLocalLLM("m").complete("q")


# ---- zsad prompts


def test_command_shows_packaged_prompts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--classes", "bottle", "foo_7", "--descriptors"]) == 0
    out = capsys.readouterr().out
    assert "bottle, abnormal: 16\n  An abnormal image of a bottle with a crack running down the glass wall.\n" in out
    assert "foo_7, normal: 20\n  A normal image of a foo with no visible defects.\n" in out
    assert "bottle, descriptors: 8\n  cracked glass\n" in out


def test_command_fills_the_cache_of_a_benchmark(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.replies = [by_label()]
    arguments = ["--data", "btad", "--llm", "openai:test-model", "--option", f"base_url={server.url}"]
    arguments += ["--option", "retries=0", "--cache-dir", str(tmp_path), "--json", "--templates"]
    assert main(arguments) == 0
    shown = json.loads(capsys.readouterr().out)["prompts"]
    assert list(shown) == ["01", "02", "03"]
    assert shown["01"]["normal"][0] == "An image of a normal product 01"
    count = len(server.requests)
    assert count == 6
    assert main([*arguments, "--mode", "offline"]) == 0
    assert json.loads(capsys.readouterr().out)["prompts"] == shown
    assert len(server.requests) == count


def test_command_goes_on_after_a_failure(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.replies = [fail(400, "no such thing"), by_label()]
    arguments = ["--classes", "gadget", "widget", "--llm", "openai:test-model", "--option", f"base_url={server.url}"]
    assert main([*arguments, "--option", "retries=0", "--cache-dir", str(tmp_path)]) == 1
    shown = capsys.readouterr()
    assert "gadget" not in shown.out
    assert "widget, abnormal: 20" in shown.out
    assert "gadget: http" in shown.err


def test_command_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="Name classes"):
        main([])
    with pytest.raises(ValueError, match="Unknown benchmark 'mvtek'"):
        main(["--data", "mvtek"])
    with pytest.raises(ValueError, match="NAME=VALUE"):
        main(["--classes", "x", "--option", "base_url"])


def test_no_warning_with_enough_answers(server: Server, tmp_path: Path) -> None:
    server.replies = [by_label()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        writer(model(server), tmp_path).write("widget")
