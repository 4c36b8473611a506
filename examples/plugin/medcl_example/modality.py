"""Optical coherence tomography: what its pictures may not suffer, and why. Its recipe and policy are the YAML files beside this one."""

from __future__ import annotations

from medcl.views.effects import Bound, Modality

OCT = Modality(
    name="oct",
    forbidden={"flip_up_down": "the vitreous lies on top", "inversion": "bright layers are what is looked at"},
    bounds={("rotation", "max_deg"): Bound(0, 10, "layers lie flat"), ("crop", "keep"): Bound(0.5, 1, "layers are lost")},
)
