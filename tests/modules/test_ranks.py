"""Which errors of gloo, NCCL and the store say that another process is gone: their own texts."""

import pytest
import torch
from torch import distributed as dist

from lit_fa.modules.distributed import lost_rank

NCCL = "NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3763, "
GONE = {
    "gloo closed": RuntimeError("[../gloo/transport/tcp/pair.cc:598] Connection closed by peer [127.0.0.1]:28048"),
    "gloo reset": RuntimeError("[../gloo/transport/tcp/pair.cc:589] Read error [::1]:25266: Connection reset by peer"),
    "gloo pipe": RuntimeError("[../gloo/transport/tcp/pair.cc:374] writev [::1]:54172: Broken pipe"),
    "nccl remote": dist.DistBackendError(
        f"{NCCL}remote process exited or there was a network error, NCCL version 2.28.8\nncclRemoteError: A call "
        "failed possibly due to a network error or a remote process exiting prematurely.\nLast error:\n"
    ),
    "nccl internal": dist.DistBackendError(
        f"{NCCL}internal error, NCCL version 2.14.3\nncclInternalError: Internal check failed.\nLast error:\n"
        "Net : Connection closed by remote peer node7<50260>"
    ),
    "store": dist.DistNetworkError(
        "Failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown or crash?"
    ),
}
OTHER = {
    "nccl memory": dist.DistBackendError(
        f"{NCCL}unhandled cuda error (run with NCCL_DEBUG=INFO for details), NCCL version 2.21.5\n"
        "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'"
    ),
    "nccl usage": dist.DistBackendError(
        f"{NCCL}invalid usage, NCCL version 2.17.1\nncclInvalidUsage: This usually reflects invalid usage of NCCL "
        "library.\nLast error:\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA device 7000"
    ),
    "nccl version": RuntimeError("NCCL version mismatch: compiled with 2.21.5, found 2.18.1"),
    "nccl missing": RuntimeError("Distributed package doesn't have NCCL built in"),
    "memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. NCCL holds 1.00 GiB."),
    "another pipe": RuntimeError("DataLoader worker (pid 3) failed: Broken pipe"),
}


@pytest.mark.parametrize("name", GONE)
def test_a_lost_peer_is_told_in_one_line(name: str):
    told = lost_rank(GONE[name])
    assert str(told).startswith("another rank of this run is gone; the last checkpoint stays usable")
    assert "\n" not in str(told)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[../gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1000ms for recv"),
        dist.DistBackendError(
            "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE)"
        ),
    ],
)
def test_a_silent_peer_is_told_in_one_line(error: RuntimeError):
    assert "has not answered within the strategy's timeout; the last checkpoint stays usable" in str(lost_rank(error))


@pytest.mark.parametrize("name", OTHER)
def test_other_failures_between_ranks_keep_their_own_words(name: str):
    assert lost_rank(OTHER[name]) is None
