"""The rows about behaviour under load, how they are judged, and the generator that notes every call."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.bench import fairness, heavy, overload, paced
from tests.bench.redeploy import Acknowledged, redeploy_row, stale
from tests.bench.report import Verdict

MS = 1_000_000
ANSWERS = {
    b"/ok": b"HTTP/1.1 200 OK\r\nfaas-version: 7\r\ncontent-length: 2\r\n\r\nok",
    b"/no": b"HTTP/1.1 429 Too Many\r\ncontent-length: 0\r\n\r\n",
    b"/close": b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
    b"/cut": b"",
}
ASKED = threading.Event()


def sheet(took_ms: float, count: int = 100, status: int = 200, per_second: float = 100) -> paced.Sheet:
    gap_ns = round(1e9 / per_second)
    began = [number * gap_ns for number in range(count)]
    return paced.Sheet(began, [round(took_ms * MS)] * count, [status] * count, [1] * count, elapsed_ns=count * gap_ns)


def together(*sheets: paced.Sheet) -> paced.Sheet:
    def joined(name: str) -> list[int]:
        return [value for each in sheets for value in getattr(each, name)]

    return paced.Sheet(
        joined("began_ns"),
        joined("took_ns"),
        joined("statuses"),
        joined("versions"),
        elapsed_ns=max(each.elapsed_ns for each in sheets),
    )


# -- the generator ----------------------------------------------------------------------------------------------------


@pytest.fixture
def port() -> Iterator[int]:
    """A server that answers each request in one piece by its path, several connections at a time."""
    ASKED.clear()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65_536):
                ASKED.set()
                answer = ANSWERS[data.split(b" ")[1]]
                connection.sendall(answer)
                if not answer or b"close" in answer:
                    return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def asked(port: int, path: str, per_second: float = 100, seconds: float = 0.2) -> paced.Sheet:
    request = f"POST {path} HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
    return paced.drive(paced.Pace("127.0.0.1", port, request, 4, seconds, per_second))


def test_an_open_loop_asks_as_often_as_it_is_told_and_notes_each_answer(port: int) -> None:
    found = asked(port, "/ok")
    assert found.statuses == [200] * 20
    assert found.versions == [7] * 20
    assert found.failed == 0
    assert len(set(found.began_ns)) == 20
    assert min(found.took_ns) > 0


def test_a_refusal_and_a_cut_connection_are_noted_as_such(port: int) -> None:
    assert asked(port, "/no").statuses == [429] * 20
    assert "429 Too Many" in asked(port, "/no").first_refusal
    assert asked(port, "/cut").statuses == [paced.BROKEN] * 20
    assert asked(port, "/close").statuses == [200] * 20


def test_a_closed_loop_asks_again_and_ends_with_the_server(port: int) -> None:
    assert len(asked(port, "/ok", 0).took(200)) > 20
    unused = socket.create_server(("127.0.0.1", 0))
    free = unused.getsockname()[1]
    unused.close()
    assert asked(free, "/ok", 0, 60).statuses == []
    assert asked(free, "/ok", 100).statuses == [paced.NOT_SENT] * 20


def test_a_stop_ends_a_pace_before_its_time(port: int) -> None:
    request = "POST /ok HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
    process = paced.start(paced.Pace("127.0.0.1", port, request, 2, 60), priority=0)
    assert ASKED.wait(30)
    assert set(paced.stop(process).statuses) == {200}


# -- the rows ---------------------------------------------------------------------------------------------------------


def test_fairness_is_judged_by_the_p99_of_all_rounds() -> None:
    def rounds(*beside_ms: float) -> list[fairness.Round]:
        return [fairness.Round(sheet(2), sheet(ms), 1000.0, 0.5) for ms in beside_ms]

    row = fairness.fairness_row("hello", rounds(3, 4, 3))
    assert (row.measured, row.ratio, row.verdict) == ("3.00 ms / 4.00 ms", "1.50 / 2.00", Verdict.PASS)
    assert "alone 2.00 ms / 2.00 ms; p99 by round between 1.50 and 2.00 x; 300 calls" in row.note
    assert fairness.fairness_row("hello", rounds(3, 4.1, 3)).verdict is Verdict.SHORT
    refused = fairness.Round(sheet(2), together(sheet(2), sheet(1, 1, 429)), 1000.0, 0.5)
    assert fairness.fairness_row("hello", [refused]).verdict is Verdict.FAILED


def test_overload_is_judged_by_what_is_served_how_soon_the_rest_is_refused_and_memory() -> None:
    peak = sheet(50, 400, per_second=80)
    crowd = together(sheet(1300, 730, per_second=73), sheet(2, 7000, 429, per_second=700))
    good, soon, flat = overload.overload_rows(peak, crowd, [50_000_000] * 40)
    assert (good.measured, good.ratio, good.verdict) == ("73.0/s", "0.91", Verdict.PASS)
    assert (soon.measured, soon.verdict) == ("2.00 ms / 2.00 ms", Verdict.PASS)
    assert (flat.measured, flat.verdict) == ("0.00 MB", Verdict.PASS)
    crowd = together(sheet(1300, 700, per_second=70), sheet(2, 7000, 429), sheet(51, 100, 503))
    good, soon, flat = overload.overload_rows(peak, crowd, [50_000_000] * 40 + [53_000_000] * 20)
    assert [each.verdict for each in (good, soon, flat)] == [Verdict.SHORT] * 3
    assert "100 of them later than 50 ms" in soon.note


@pytest.mark.parametrize("status", [500, 502, 504, paced.BROKEN, paced.NOT_SENT])
def test_anything_but_served_and_refused_fails_the_overload(status: int) -> None:
    crowd = together(sheet(1300, 720), sheet(2, 7000, 429), sheet(2, 1, status))
    (row,) = overload.overload_rows(sheet(50), crowd, [1])
    assert row.verdict is Verdict.FAILED
    assert "720 served, 7000 refused, 1 neither" in row.note


def test_an_old_answer_is_one_whose_successor_was_acknowledged_before_the_call_began() -> None:
    deploys = [Acknowledged(1, 0), Acknowledged(2, 100), Acknowledged(3, 200)]
    began, versions = [0, 99, 100, 150, 199, 250], [1, 3, 1, 2, 1, 3]
    found = paced.Sheet(began, [1] * 6, [200] * 6, versions)
    assert stale(found, deploys) == 2
    assert redeploy_row(found, deploys, [5, 6]).measured == "0 / 2"
    assert redeploy_row(found, deploys, [5, 6]).verdict is Verdict.SHORT
    fine = paced.Sheet(began, [1] * 6, [200] * 6, [1, 2, 2, 2, 3, 3])
    assert redeploy_row(fine, deploys, [5, 6]).verdict is Verdict.PASS
    failed = paced.Sheet(began, [1] * 6, [200] * 5 + [503], [1, 2, 2, 2, 3, 0])
    assert redeploy_row(failed, deploys, [5, 6]).measured == "1 / 0"
    assert redeploy_row(sheet(1), deploys, [5]).verdict is Verdict.SHORT, "one version only: nothing was shown"


def test_a_heavy_start_is_judged_by_its_ratio_to_the_hello_beside_it() -> None:
    def pairs(*ratios: float) -> list[tuple[tuple[int, str], tuple[int, str]]]:
        return [((round(ratio * 5 * MS), "init;dur=2.000"), (5 * MS, "")) for ratio in ratios]

    row = heavy.heavy_row("parked", pairs(1, 3, 9), heavy.START)
    assert (row.what, row.measured, row.ratio) == ("start from parked with numpy, p50", "15.0 ms", "3.00")
    assert row.verdict is Verdict.PASS
    assert "hello from zero, 5.00 ms; slowest 45.0 ms; init p50 2.00 ms" in row.note
    assert heavy.heavy_row("parked", pairs(1, 3.1, 9), heavy.START).verdict is Verdict.SHORT
    assert heavy.heavy_row("zero", pairs(20, 30), None).verdict is Verdict.INFO
