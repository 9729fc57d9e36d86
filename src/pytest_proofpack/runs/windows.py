"""Whether the windows that a suite asks for can hold the evidence that its policy demands, known before any work."""

from __future__ import annotations

from pytest_proofpack.certificate.criteria import demanded_evidence
from pytest_proofpack.certificate.metric import holds_evidence
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.records import Strictness, WindowPlan
from pytest_proofpack.runs.run import Run


def require_windows_asked(run: Run) -> None:
    """Make sure of the same before anything is known of the models, as far as the suite itself says what there is.

    Raises:
        ConfigurationError: as :func:`require_enough_windows`.
    """
    if run.suite.windows.seq_len is not None:
        for model in run.unedited:  # fewer parameters, more windows: what fails here fails with any model
            require_enough_windows(run, model.id, run.window_plan(0, None))


def require_enough_windows(run: Run, model: str, plan: WindowPlan) -> str | None:
    """Make sure that certificates on such windows can pass, where any has to.

    Args:
        run: the run.
        model: id of the model.
        plan: how text is cut for it.

    Returns:
        A warning where nothing has to pass: the perplexity gate fails whatever was done, so what demands no more than
        that proves nothing. None where there are windows enough, or where the run tunes, which demands no more than it
        has.

    Raises:
        ConfigurationError: there are too few, and something has to pass.
    """
    rules = run.policy.section("primary_metric")
    final_tokens, tokens = (count * (plan.seq_len - 1) for count in (plan.final, plan.preview + plan.final))
    if run.tunes or holds_evidence(rules, tokens, final_tokens, plan.final):
        return None
    problem = (
        f"suite {run.suite.name}: windows: {plan.preview} preview and {plan.final} final windows of {plan.seq_len} "
        f"tokens hold {tokens:,} scored tokens, {final_tokens:,} of them in the final ones, and the perplexity gate "
        f"demands {demanded_evidence(rules)}"
    )
    if all(request.scenario.strictness is not Strictness.MUST_PASS for request in run.requests):
        return f"{problem}: it fails in every certificate, whatever was done to the model"
    raise ConfigurationError(
        f"{problem}, so no certificate of {model} could pass. Ask for more, or leave preview and final out, which are "
        "then as many as it takes; or lower primary_metric.min_tokens and min_final_windows under [limits], which is "
        "told to everybody who verifies."
    )
