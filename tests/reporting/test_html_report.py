"""The HTML report: complete, self-contained, escaped, and silent about what is not known."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hf_transfer.errors import DataError, OutputError
from hf_transfer.evaluation import evaluate_predictions
from hf_transfer.figures.alt_text import ALT_TEXT
from hf_transfer.reporting.html_report import render_report, write_report
from tests.helpers.fast import slow_but

HOSTILE = '<script>alert("1")</script>'


class Page(HTMLParser):
    """What a browser would make of a page: elements with their attributes, and the text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open and data.strip():
            self.text.append(" ".join(data.split()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def evaluation(split: str = "validation", classes: int = 4, label: str = "class") -> dict[str, Any]:
    generator = np.random.default_rng(0)
    labels = generator.integers(classes, size=20 * classes)
    logits = generator.normal(size=(len(labels), classes))
    logits[np.arange(len(labels)), labels] += 2
    return evaluate_predictions(logits, labels, [f"{label} {i}" for i in range(classes)], split).to_dict()


def test_predictions_that_say_nothing_are_told() -> None:
    """The page says that one class is predicted for all images; it says nothing of other predictions."""
    useless = evaluate_predictions(np.tile([2.0, 0.0], (24, 1)), np.repeat([0, 1], [20, 4]), ["good", "<bad>"], "test")
    page = " ".join(Page(render_report(run(), {"test": useless.to_dict()}, [])).text)
    assert "The model predicts 'good' for all 24 images" in page
    assert "The model predicts" not in " ".join(Page(render_report(run(), {"test": evaluation()}, [])).text)


def run() -> dict[str, Any]:
    """The content of a run.json, with one of everything."""
    phases = [
        {"name": "linear probe", "start_step": 0, "end_step": 20},
        {"name": "fine-tune", "start_step": 20, "end_step": 60},
    ]
    frozen = {"trained_parameters": 0, "learning_rate": None, "weight_decay": None}
    groups = [
        {"index": 0, "name": "stem", "role": "stem", "parameters": 1234, "phases": [frozen, frozen]},
        {
            "index": 1,
            "name": "head",
            "role": "head",
            "parameters": 5130,
            "phases": [
                {"trained_parameters": 5130, "learning_rate": 0.01, "weight_decay": 0.0},
                {"trained_parameters": 10, "learning_rate": 0.0025, "weight_decay": 0.05},
            ],
        },
    ]
    return {
        "schema": 1,
        "created": "2025-01-02T03:04:05+00:00",
        "command": "hf-transfer train --dataset pets",
        "versions": {"python": "3.11.7", "torch": "2.9.0"},
        "hardware": {"device": "cpu", "cores": 2, "accelerators": []},
        "seed": 1234567,
        "split_seed": 7,
        "base_model": {"id": "timm/tiny", "architecture": "timm:tiny", "library": "timm", "parameters": 6364},
        "data": {
            "name": "pets",
            "hub_id": "someone/pets",
            "label_names": ["cat", "dog"],
            "counts": {"train": {"cat": 1000, "dog": 900}, "validation": {"cat": 10}},
            "skipped": [{"split": "train", "reason": reason, "images": n} for n, reason in enumerate(("a", "b"), 1)],
        },
        "preprocessing": {"height": 96, "width": 96, "mean": [0.5, 0.5, 0.5]},
        "training": {
            "plan": {"plan": {"recipe": "lp_ft"}, "groups": groups, "phases": phases},
            "optimizer": {"class": "AdamW", "defaults": {"lr": 9.0}},
            "effective_batch_size": 32,
            "best_checkpoint_step": None,
        },
        "timing": {"train_seconds": 3725.0, "images_per_second": 81.25},
    }


def make_figures(folder: Path) -> list[Path]:
    paths = [folder / name for name in (*ALT_TEXT, "rates_by_layer.png")]
    for index, path in enumerate(paths):
        Image.new("RGB", (8 + index, 8)).save(path)
    return paths


def test_page_tells_everything(tmp_path: Path) -> None:
    """Headline, metrics, classes, plan, counts, facts, versions and command are on the page, as they were given."""
    path = tmp_path / "new" / "report.html"
    reports = {"validation": evaluation(), "test": evaluation("test")}
    write_report(path, run(), reports, make_figures(tmp_path))
    page = Page(path.read_text(encoding="utf-8"))
    text = " | ".join(page.text)
    accuracy = reports["validation"]["metrics"]["accuracy"]
    assert page.open == []
    for part in (
        "timm/tiny on pets",
        f"{accuracy['value']:.1%} | 95 % interval {accuracy['low']:.1%} to {accuracy['high']:.1%}, 80 images",
        "Evaluation: test, 80 images",
        "Calibration error (ECE)",
        "Most frequent mistakes",
        "stem | stem | 1,234 | frozen | frozen",
        "head | head | 5,130 | 0.01 | 0.0025, decay 0.05 (10 of them)",
        "fine-tune | steps 20 to 60",
        "All | 1,900 | 10",
        "dog | 900 | 0",
        "left out: 3 of train.",
        "Recipe | lp_ft",
        "Optimizer | AdamW",
        "Effective batch size | 32",
        "Seed | 1234567",
        "Training time | 1 h 2 min",
        "Training throughput | 81.2 images/s",
        "python | 3.11.7",
        "hf-transfer train --dataset pets",
    ):
        assert part in text


def test_nothing_runs_and_nothing_is_fetched(tmp_path: Path) -> None:
    """No script, no address but embedded data, and a policy that forbids both."""
    source = render_report(run(), {"validation": evaluation()}, make_figures(tmp_path))
    page = Page(source)
    for tag, attributes in page.elements:
        assert tag not in ("script", "iframe", "object", "embed", "base", "form")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "poster", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert (
        "url(" not in source and "@import" not in source and "//" not in source.replace("base64,", "").split("<img")[0]
    )
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_figures_are_embedded_with_alt_texts(tmp_path: Path) -> None:
    """Every figure is on the page byte by byte with an alternative text; a missing file is left out."""
    figures = make_figures(tmp_path)
    page = Page(render_report({}, {}, [*figures, tmp_path / "missing.png"]))
    images = page.all("img")
    contents = [base64.b64decode((image["src"] or "").removeprefix("data:image/png;base64,")) for image in images]
    assert contents == [figure.read_bytes() for figure in figures]
    assert [image["alt"] for image in images] == [*ALT_TEXT.values(), "Rates by layer."]


def test_labels_cannot_inject(tmp_path: Path) -> None:
    """A script as label, name, key or command is shown as text wherever it stands."""
    text = json.dumps(run())
    for word in ("cat", "stem", "linear probe", "pets", "timm/tiny", "AdamW", "3.11.7", "torch", "train", "device"):
        text = text.replace(json.dumps(word), json.dumps(HOSTILE + word))
    source = render_report(json.loads(text), {HOSTILE: evaluation(HOSTILE, label=HOSTILE)}, [])
    page = Page(source)
    assert not page.all("script")
    assert "<script" not in source
    assert f"{HOSTILE}timm/tiny on {HOSTILE}pets" in page.text
    assert f"{HOSTILE} 0" in page.text


def test_empty_run_has_no_placeholders() -> None:
    """Nothing known gives a valid page that claims nothing."""
    page = Page(render_report({}, {}, []))
    assert page.text == ["Training report", "Training report"]
    assert not page.all("table") and not page.all("section")


def paths_of(value: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every key of nested mappings."""
    if not isinstance(value, dict):
        return []
    return [path for key, part in value.items() for path in ((*prefix, key), *paths_of(part, (*prefix, key)))]


@pytest.mark.parametrize("missing", slow_but((True,), (True, False)), ids=["missing", "None"])
def test_any_key_may_lack(missing: bool) -> None:
    """Whatever key of the record is missing or None, the page is whole and shows no trace of it."""
    for key in paths_of(run()):
        if key[:2] == ("data", "counts") and len(key) > 2:
            continue  # Here keys are names of splits and classes.
        record = run()
        part = record
        for name in key[:-1]:
            part = part[name]
        if missing:
            del part[key[-1]]
        else:
            part[key[-1]] = None
        page = Page(render_report(record, {}, []))
        assert page.open == [], key
        assert not any(word in " ".join(page.text) for word in ("None", "Undefined", "null", "N/A")), key


def test_tables_are_accessible(tmp_path: Path) -> None:
    """Every header cell has a scope, every table a named region that the keyboard reaches, headings do not jump."""
    page = Page(render_report(run(), {"validation": evaluation(classes=60)}, make_figures(tmp_path)))
    assert page.all("html")[0]["lang"] == "en"
    assert all(cell.get("scope") in ("col", "row") for cell in page.all("th"))
    regions = [box for box in page.all("div") if box.get("role") == "region"]
    assert len(regions) == len(page.all("table"))
    assert all(box["aria-label"] and box["tabindex"] == "0" for box in regions)
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3")]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))


def test_long_tables_are_folded() -> None:
    """With more than 50 classes both ends are shown and all of them folded away, as are many layer groups."""
    record = run()
    plan = record["training"]["plan"]
    plan["groups"] = [{**plan["groups"][0], "name": f"blocks.{i}"} for i in range(41)]
    record["data"]["label_names"] = [f"class {i}" for i in range(60)]
    page = Page(render_report(record, {"validation": evaluation(classes=60)}, []))
    assert [text for text in page.text if text in ("All 60 classes", "41 layer groups", "60 classes")] == [
        "All 60 classes",
        "41 layer groups",
        "60 classes",
    ]
    assert len(page.all("details")) == 3
    assert "The 10 worst classes by F1" in page.text


def test_report_without_intervals() -> None:
    """Metrics whose interval is not known show a dash, and the headline no interval."""
    report = evaluation()
    for metric in report["metrics"].values():
        metric["low"] = metric["high"] = None
    text = " ".join(Page(render_report({}, {"validation": report}, [])).text)
    assert "95 % interval" in text and "interval 0" not in text and "–" in text and "None" not in text


def test_faults_are_named(tmp_path: Path) -> None:
    """A broken evaluation is a DataError, a place that cannot be written an OutputError."""
    with pytest.raises(DataError, match="to_dict"):
        render_report({}, {"validation": {"n": 3}}, [])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="report.html"):
        write_report(tmp_path / "file" / "report.html", {}, {}, [])


def test_label_that_is_no_utf8(tmp_path: Path) -> None:
    """A label from a file name that is not UTF-8 does not stop the page from being written."""
    path = tmp_path / "report.html"
    write_report(path, {"command": "a\udcff"}, {}, [])
    assert "a?" in path.read_text(encoding="utf-8")
