"""Write the golden file of every shipped config anew; look at the diff before committing it.

From the root: `PYTHONPATH=. python tests/golden/renew.py`
"""

from __future__ import annotations

from medcl.foundation.config import to_yaml
from medcl.run_config import load_pretrain, load_study
from tests.invariants.test_configs import GOLDEN, PRETRAIN, STUDIES, name_of

for old in GOLDEN.glob("*.yaml"):
    old.unlink()
for path in [*PRETRAIN, *STUDIES]:
    settings = load_pretrain(path) if path in PRETRAIN else load_study(path)
    (GOLDEN / name_of(path)).write_text(to_yaml(settings))
