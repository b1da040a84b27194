"""The rows of the sites, and what is asked of them."""

from __future__ import annotations

from sweep.quantization import sites
from sweep.quantization.sites import Channels, Site

FLOW = ["in_proj_in", "x_conv_in", "B_conv_in", "C_conv_in", "x_conv_pre", "B_conv_pre", "C_conv_pre", "x_conv_out",
        "B_conv_out", "C_conv_out", "ssm_state", "out_proj_in"]  # fmt: skip


def test_rows_are_in_the_order_of_the_data_flow() -> None:
    assert list(sites.SITES) == FLOW
    assert sites.ordered(["zeta", *reversed(FLOW), "alpha"]) == [*FLOW, "alpha", "zeta"]
    assert sites.quantized() == (*FLOW[:4], *FLOW[7:10], "out_proj_in")


def test_what_comes_after_silu_knows_what_came_before() -> None:
    assert {name: sites.after(name) for name in FLOW if sites.after(name)} == {
        "x_conv_pre": "x_conv_out", "B_conv_pre": "B_conv_out", "C_conv_pre": "C_conv_out",
    }  # fmt: skip
    assert sites.after("unknown") is None


def test_a_row_by_its_name_or_that_of_a_group_of_its_channels() -> None:
    assert sites.named("x_conv_out") is sites.SITES["x_conv_out"] is sites.named("x_conv_out[0,1,2]")
    assert sites.named("own[3]") == Site("own", "")
    assert sites.named("B_conv_in").channels is Channels.STATES
    assert sites.named("out_proj_in").channels is Channels.HEADS
    assert sites.named("in_proj_in").channels is Channels.PLAIN
