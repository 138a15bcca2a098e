import pytest
from hypothesis import given
from hypothesis import strategies as st

from not_core.errors import PlanError
from not_core.manifest import Span
from not_core.surgery import plan as plans
from not_core.surgery.plan import HOST, Layer


@given(st.integers(1, 40), st.data())
def test_replace_keeps_the_length_and_every_other_layer(layers: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, layers))
    position = data.draw(st.integers(0, layers - count))
    plan = plans.transplant(layers, "o", count, mode="replace", position=position)
    assert len(plan.layers) == layers
    assert plan.layers[position : position + count] == tuple(
        Layer("o", i, over=position + i) for i in range(count)
    )
    assert [layer for layer in plan.layers if layer.source == HOST] == [
        Layer(HOST, i) for i in range(layers) if not position <= i < position + count
    ]


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_insert_keeps_all_host_layers_in_order(
    layers: int, count: int, data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, layers))
    plan = plans.transplant(layers, "o", count, mode="insert", position=position)
    assert plan.layers[position : position + count] == plans.whole("o", count)
    assert [layer for layer in plan.layers if layer.source == HOST] == list(
        plans.whole(HOST, layers)
    )


@pytest.mark.parametrize(
    ("mode", "position", "count"),
    [("replace", 4, 3), ("replace", -1, 1), ("insert", 7, 1), ("replace", 0, 7)],
)
def test_a_plan_past_the_host_is_refused(mode: plans.Mode, position: int, count: int) -> None:
    with pytest.raises(PlanError, match="host"):
        plans.transplant(6, "o", count, mode=mode, position=position)


def test_a_span_past_the_model_is_refused() -> None:
    with pytest.raises(PlanError, match="has 6 layers"):
        plans.cut(6, Span(start=4, stop=7))


def test_a_plan_needs_a_layer() -> None:
    with pytest.raises(PlanError):
        plans.Plan(())
