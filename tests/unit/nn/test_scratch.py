"""Scratch that calls on one stream share: who gets which, on the CPU in a GPU's place."""

from __future__ import annotations

import threading

import pytest
import torch

from fusetune.nn import scratch
from fusetune.nn.scratch import CAPTURED_COUNTS, MOST_STREAMS, KeptScratch, kept_for
from fusetune.ops.spec import Operand

SUMMANDS = Operand("partial", (6, 2, 16, 16), "float32", role="output")
COUNTS = Operand("arrivals", (6,), "int32", role="counter", std=0.0)


class Capture:
    on = False


@pytest.fixture
def capture(monkeypatch):
    """A CUDA device's scratch, made of the CPU's memory; `on` says that a graph is being captured."""
    capture = Capture()
    monkeypatch.setattr(KeptScratch, "_torch_device", torch.device("cpu"))
    monkeypatch.setattr(torch._C, "_cuda_isCurrentStreamCapturing", lambda: capture.on, raising=False)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capture.on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: torch.Stream(device="cpu"))
    monkeypatch.setattr(scratch, "_OF_DEVICES", {})
    return capture


def _counts(kept):
    return kept.tensors[1]


def test_calls_on_one_stream_share_scratch_and_calls_on_two_do_not(capture):
    kept = kept_for(0, (SUMMANDS, COUNTS))
    assert kept(7) is kept(7)
    assert not set(kept(7).addresses) & set(kept(8).addresses)
    other = kept_for(0, (SUMMANDS, COUNTS))
    assert other(7) is kept(7)
    assert kept_for(1, (SUMMANDS, COUNTS))(7) is not kept(7)


def test_what_a_call_has_besides_is_not_shared(capture):
    copies = (Operand("x_padded", (6, 64), "float16", role="output"), Operand("y_padded", (6, 64), "float16"))
    kept = kept_for(0, (*copies, SUMMANDS, COUNTS))
    assert kept(7) is kept_for(0, (SUMMANDS, COUNTS))(7)
    assert kept(7).tensors[0].numel() >= SUMMANDS.numel
    assert kept_for(0, (*copies, SUMMANDS)) is None


def test_counts_are_zero_and_there_is_room_for_the_largest_call(capture):
    device = KeptScratch(0)
    small = device.get(7, elements=100, tiles=5)
    assert not _counts(small).any()
    assert device.get(7, elements=50, tiles=3) is small
    large = device.get(7, elements=50, tiles=5000)
    assert (large.elements, large.tiles) == (100, 5000)
    assert not _counts(large).any()
    assert device.get(7, elements=100, tiles=5) is large


def test_each_captured_call_has_counts_of_its_own_that_are_zero_before_it(capture):
    kept = kept_for(0, (SUMMANDS, COUNTS))
    eager = kept(7)
    capture.on = True
    first, second = kept(7), kept(7)
    assert not _counts(first).any()
    addresses = {one.addresses[1] for one in (eager, first, second)}
    assert len(addresses) == 3
    assert all(address % 16 == 0 for address in addresses)
    assert abs(first.addresses[1] - second.addresses[1]) >= 4 * 6
    capture.on = False
    assert kept(7) is eager


def test_a_graph_zeroes_counts_itself_where_none_are_left_or_were_ever_made(capture):
    device = KeptScratch(0)
    capture.on = True
    device.prepare()
    assert not _counts(device.get(7, elements=10, tiles=6)).any()
    capture.on = False
    device.prepare()
    capture.on = True
    first = device.get(7, elements=10, tiles=CAPTURED_COUNTS)
    beyond = device.get(7, elements=10, tiles=6)
    assert _counts(first).numel() == CAPTURED_COUNTS
    assert _counts(beyond).numel() == 6
    assert not _counts(beyond).any()


def test_scratch_of_streams_that_are_long_gone_is_given_back(capture):
    device = KeptScratch(0)
    for stream in range(3 * MOST_STREAMS):
        device.get(stream, elements=10, tiles=1)
    assert len(device) <= MOST_STREAMS


def test_threads_on_one_stream_get_room_that_fits_them(capture):
    device, found = KeptScratch(0), []

    def work(elements):
        for _ in range(200):
            kept = device.get(7, elements=elements, tiles=elements)
            found.append(kept.elements >= elements and kept.tiles >= elements)

    threads = [threading.Thread(target=work, args=(elements,)) for elements in (10, 100, 3000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found)
    assert len(found) == 600


def test_summands_for_a_second_kernel_are_each_call_s_own():
    assert kept_for(0, ()) is None
    assert kept_for(0, (SUMMANDS,)) is None
