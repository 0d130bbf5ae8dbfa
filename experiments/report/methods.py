"""The methods that are compared: what each is called, how it is drawn, and its place in every table and figure.

Ours comes first, then its rivals, then variations of them by name, and last the oracle, which knows the truth. A method
without a record here is an ablation: its looks follow from its name alone, so that all figures agree on it.
"""

from __future__ import annotations

__all__ = ["AUTO", "CHOSEN", "METHODS", "FLOOR", "ORACLE", "OURS", "RIVALS", "TRUTH", "Method", "method_named", "method_order"]

import zlib
from collections.abc import Iterable
from typing import NamedTuple

TRUTH = "#222222"
"""The colour of what is true or exact."""
AUTO, OURS, CHOSEN, ORACLE, FLOOR = "auto", "joint", "chosen", "exact", "floor"
"""Ours always has its networks, and draws by joint posteriors under its priors; chosen is the same without networks that
held-out draws do not speak for. auto, amortised and moment_matching separate by the same fit as joint; trained is auto, learned
anew from observations by an operator that joint has never seen."""
VARIATION, LAST = 50, 99
"""Places of the variations, which go by name, and of the oracle and the floor."""


class Method(NamedTuple):
    """One method.

    name: in presets and results. label: in tables. short: in figures, where room is scarce. order: its place, above 0 of
    rivals, others are ours; those of one place go by name. ablation: one of the variations that figures of draws leave out.
    """

    name: str
    label: str
    short: str
    colour: str
    marker: str
    order: int = VARIATION
    ablation: bool = False

    @property
    def look(self) -> tuple[str, str, str]:
        """Colour, marker and label in a figure."""
        return self.colour, self.marker, self.short

    @property
    def ours(self) -> bool:
        """Whether it is a way to separate by what our fit has learned: then it is no rival of the others of these."""
        return self.order <= 0

    @property
    def knows_truth(self) -> bool:
        """Whether it has seen what others must learn: then it is no rival of theirs."""
        return self.name in (ORACLE, FLOOR) or self.name.endswith("_clean")


OTHERS = ("#8C564B", "#7B4FA3", "#2F6B57", "#B03A6A", "#4C5B8A", "#6E7F1E")
"""Colours of ablations."""


def _ablation(name: str) -> Method:
    colour = OTHERS[zlib.crc32(name.encode()) % len(OTHERS)]
    return Method(name, name, name.replace("_", " "), colour, "h", ablation=True)


# Seaborn's colour-blind palette, in an order that keeps rivals apart; markers tell them apart in print.
METHODS = (
    Method(AUTO, "auto (ours, what the fit chose)", "auto (ours)", "#00539C", "+", -2),
    Method(OURS, "joint (ours)", "joint (ours)", "#0173B2", "o", -1),
    Method("amortised", "amortised (ours)", "amortised (ours)", "#5AA9A3", "1", 0),
    Method("moment_matching", "moment matching (ours)", "moment matching (ours)", "#9FB4C7", "2", 0),
    Method(CHOSEN, "chosen (ours, networks that help)", "chosen (ours)", "#6A3D9A", "x", 0),
    Method("trained", "trained for the operator (ours)", "trained for it (ours)", "#B8860B", "4", 0),
    Method("mixture", "mixture (closed form)", "mixture", "#DE8F05", "s", 1),
    Method("joint_paper", "joint, the paper's recipe", "joint, paper's recipe", "#029E73", "D", 2),
    Method("gibbs", "Gibbs", "Gibbs", "#D55E00", "^", 3),
    Method("gibbs_8x", "Gibbs, 8 × compute", "Gibbs, 8 × compute", "#CC78BC", "v", 4),
    Method("gibbs_mixture", "Gibbs, mixture start", "Gibbs, mixture start", "#CA9161", "<", 5),
    Method("pcpca", "PCPCA", "PCPCA", "#949494", "P", 6),
    Method("clvm_linear", "CLVM, linear", "CLVM-Linear", "#56B4E9", "X", 7),
    Method("clvm_vae", "CLVM, VAE", "CLVM-VAE", "#A89000", "*", 8),
    Method("segmentation", "segmentation, symmetric", "segmentation, symmetric", "#882255", "p", 9),
    Method("aperture", "masked aperture", "masked aperture", "#F08AB4", ">", 10),
    Method("joint_wide", "joint, wide (ours)", "joint, wide", "#2A4D8F", "8"),
    Method("joint_asinh", "joint, of asinh", "joint, asinh", "#3FA7A0", "d"),
    Method("joint_clean", "joint, learned from clean sources", "joint, clean", "#7FB3D5", "h"),
    Method("amortised_clean", "amortised, learned from clean sources", "amortised, clean", "#A9D3CF", "3"),
    Method("mixture_clean", "mixture, learned from clean sources", "mixture, clean", "#F0C27B", "H"),
    # Ablations of the manifolds that are compared: tables call them what the preset does.
    *map(_ablation, ("joint_cold", "joint_cold_moment_matching")),
    *map(_ablation, ("joint_karras", "joint_paper_long", "joint_plain_em")),
    Method(ORACLE, "exact (oracle, floor)", "exact", TRUTH, ".", LAST),
    Method(FLOOR, "truth beside other truth (floor)", "floor", "#555555", ",", LAST),
)
RIVALS = tuple(method.name for method in METHODS if 0 < method.order < VARIATION)
"""What our method is compared with, by name."""
_BY_NAME = {method.name: method for method in METHODS}


def method_named(name: str) -> Method:
    """Return the record of a method; that of an unknown one follows from its name."""
    return _BY_NAME.get(name) or _ablation(name)


def method_order(names: Iterable[str]) -> list[str]:
    """Return the methods without repeats in the order of every table: ours, its rivals, others by name, the oracle."""
    return sorted(set(names), key=lambda name: (method_named(name).order, name))
