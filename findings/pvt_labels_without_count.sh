#!/usr/bin/env bash
# PVT alone of transformers' configurations does not count its labels.
#
# Guess before the first run: num_labels follows from id2label in every configuration, since PreTrainedConfig computes
# it, so that naming three labels gives a head of three rows.
# Seen with transformers 5.24.0: PvtConfig declares num_labels as a field of its own, 1000 by default. Three labels
# leave it at 1000, from which PvtForImageClassification makes its head; labels that are set later do not change it
# either. No other configuration of the library declares the field. No error and no warning.
# Way out: give num_labels as well, or set config.num_labels before id2label.
#
# Output seen:
#   vit 3
#   pvt 1000
#   pvt, labels set later 3 of 5
#   configurations with a field of their own: PvtConfig
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check "transformers==5.24.0"

cat > "$work/look.py" <<'PYTHON'
import dataclasses

from transformers import PvtConfig, ViTConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
import transformers

labels = {0: "ant", 1: "bee", 2: "cat"}
print("vit", ViTConfig(id2label=labels).num_labels)
print("pvt", PvtConfig(id2label=labels).num_labels)
later = PvtConfig(num_labels=3)
later.id2label = dict(enumerate("abcde"))
print("pvt, labels set later", later.num_labels, "of", len(later.id2label))
own = set()
for name in CONFIG_MAPPING_NAMES.values():
    kind = getattr(transformers, name, None)
    if kind is not None and dataclasses.is_dataclass(kind) and "num_labels" in {f.name for f in dataclasses.fields(kind)}:
        own.add(name)
print("configurations with a field of their own:", ", ".join(sorted(own)))
PYTHON

cat > "$work/expected" <<'TEXT'
vit 3
pvt 1000
pvt, labels set later 3 of 5
configurations with a field of their own: PvtConfig
TEXT
"$work/venv/bin/python" "$work/look.py" 2>/dev/null > "$work/seen" || true
cat "$work/seen"
if ! diff "$work/expected" "$work/seen"; then
    echo "The behaviour has changed." >&2
    exit 1
fi
