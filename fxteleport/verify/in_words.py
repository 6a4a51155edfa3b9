"""The result of a comparison in words: one sentence, and notes."""

from __future__ import annotations

from fxteleport.verify.report import EquivalenceReport


def sentence(report: EquivalenceReport) -> str:
    """The result in one sentence, without the notes."""
    if report.vacuous:
        which = ", ".join(report.constant_outputs)
        several = f" ({which})" if len(report.constant_outputs) > 1 else ""
        return f"proves nothing: the original's output is constant, as far as it is finite{several}"
    if report.cannot_tell:
        return (
            f"cannot tell: differences up to {report.tolerance:.2g} may be the original's own rounding"
            f"{'' if report.bound is None else f' (a wrong network shows above {report.bound:.2g})'},"
            " and float64 copies do not decide"
        )
    return _agreement(report) if report.passed else _difference(report)


def _difference(report: EquivalenceReport) -> str:
    if report.first_difference is None and report.max_rel <= report.tolerance:
        if report.wrong_parameter is not None:
            return f"a tensor is not the original's times its factor: {report.wrong_parameter}"
        if report.different_output is not None:
            return f"{report.different_output} differs"
    where = f"; first at {report.first_difference}" if report.first_difference else ""
    outputs = f"differ by {report.max_rel:.2g} of the largest" if report.max_rel else "agree, values inside do not"
    return f"the outputs {outputs}{where}"


def _agreement(report: EquivalenceReport) -> str:
    if report.epsilon_gap is not None:
        return f"{_closeness(report)}, with the norms' epsilons put right: as they are, {_gap(report.epsilon_gap)}"
    return _closeness(report)


def _gap(gap: float) -> str:
    return f"outputs differ by {gap:.2g} of the largest" if gap else "outputs are the same to the last bit"


def _closeness(report: EquivalenceReport) -> str:
    if (report.bitwise_equal or report.epsilon_gap is not None) and not report.tolerance:
        return f"equal to the last bit at {report.nodes} nodes" if report.nodes else "outputs equal to the last bit"
    own = "" if report.rounding is None else f"; the original's own rounding is {report.rounding:.2g}"
    return f"largest relative difference {report.max_rel:.2g}{' of float64 copies' * report.float64}{own}"


def notes(report: EquivalenceReport) -> list[str]:
    """What a passed comparison does not cover, and what else was compared."""
    texts = []
    if report.parameters:
        texts.append(f"{report.parameters} parameters and buffers are the original's times their factors")
    if report.exercised is not None:
        texts.append(f"these inputs exercise {report.exercised:.1%} of the parameters")
    if report.underflows:
        texts.append(f"{report.underflows} values are too small for their format, and were compared as it holds them")
    if report.constant_outputs:
        texts.append(f"constant, and so without a say: {', '.join(report.constant_outputs)}")
    return texts
