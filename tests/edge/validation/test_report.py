"""The report and the summary: what they show, what they keep, and that no file name can break out of them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from edge.contract.messages import BoxPx
from edge.images.method import Method
from edge.images.residual_boxes import MapGeometry
from edge.model.manifest import LearntFrom
from edge.records import Outcome, Policy, Size
from edge.scans.scan import Limits
from edge.validation.figures import MAX_POINTS, Group, gate_scatter, interval_bar, roc_figure, score_histogram
from edge.validation.gallery import UNREADABLE_SHOWN, Gallery, Shelf
from edge.validation.labels import Label, LabelRow
from edge.validation.leaks import Leaks
from edge.validation.measure import measure_reliability
from edge.validation.photographer import Photographer
from edge.validation.pictures import THUMBNAIL, heat_legend, picture_svg, scan_picture
from edge.validation.reliability import Plant
from edge.validation.report import report_html
from edge.validation.requirements import check_requirement, parse_requirement
from edge.validation.results import validate
from edge.validation.sources import LocalFolder
from edge.validation.statistics import roc
from edge.validation.summary import Replay, summary_json
from edge.validation.table import ScanRow
from tests.support.fakes import write_scan
from tests.support.models import scripted_model
from tests.support.samples import sample_model_card, sample_verdict

POLICY = Policy(threshold=0.5, gate_mean_threshold=0.05, gate_std_threshold=0.06)
GEOMETRY = MapGeometry(cell_px=10, offset_px=5)
PICTURE = scan_picture(
    np.full((1, 200, 100), 90, np.uint8), Method.GLOBAL, np.full((18, 9), 0.1, np.float32), GEOMETRY, 0.05, [],
    Size(2000, 1000),
)  # fmt: skip
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>&amp;{{ 7*7 }}\u202e\n.tif'


class Seen:
    """Scans as the worker hands them over, with a gallery that looks on."""

    def __init__(self, pictures: int = 3) -> None:
        self.gallery = Gallery(size=pictures, policy=POLICY)
        self.rows: list[ScanRow] = []
        self.truths: list[LabelRow | None] = []
        self.plant = Plant()

    def judge(
        self,
        file: str,
        outcome: Outcome,
        *,
        label: Label | None = None,
        p: float | None = None,
        mean: float | None = None,
        lot: str | None = "B01",
        reasons: tuple[str, ...] = ("classifier",),
        detail: str | None = None,
    ) -> None:
        sample = sample_verdict()
        gate = sample.gate.model_copy(update={"mean_max": mean, "std_max": mean})
        verdict = sample.model_copy(
            update={"outcome": outcome, "p_abnormal": p, "gate": gate, "reasons": reasons, "detail": detail}
        )
        truth = None if label is None else LabelRow(2, file, lot, label, kinds=("lines",), severities=(0.7,))
        row = ScanRow(file, lot, label, outcome, reasons, p, mean, mean, (1.0, 2.0, None if p is None else 30.0))
        self.rows.append(row)
        self.truths.append(truth)
        self.gallery.offer(verdict, row, truth)

    def files(self, shelf: Shelf) -> list[str]:
        return [card.row.file for card in self.gallery.cards(shelf)]

    def replay(self, *requirements: str, labels_without_file: tuple[str, ...] = ()) -> Replay:
        validation = validate(self.rows, threshold=0.5, labels_without_file=len(labels_without_file))
        truths = {row.file: truth for row, truth in zip(self.rows, self.truths, strict=True) if truth is not None}
        reliability = measure_reliability(self.rows, truths, POLICY, self.plant)
        found = Replay(
            program="edge-worker 1.0",
            folder="lot",
            labels="labels.csv",
            labels_sha256="cd" * 32,
            card=sample_model_card(),
            rows=self.rows,
            validation=validation,
            reliability=reliability,
            comparison=None,
            leaks=Leaks(LearntFrom(), LearntFrom()),
            requirements=(),
            training={"data_digest": "ef" * 32, "data": "simulated"},
            labels_without_file=labels_without_file,
        )
        results = [check_requirement(parse_requirement(text), found.figures) for text in requirements]
        return replace(found, requirements=results)

    def html(self, *requirements: str) -> str:
        self.gallery.add_pictures(lambda _, verdict: None if verdict.p_abnormal is None else PICTURE)
        return report_html(self.replay(*requirements), self.gallery)


def a_mixed_lot() -> Seen:
    seen = Seen()
    for number in range(6):
        seen.judge(f"good{number}.tif", Outcome.NORMAL, label=Label.NORMAL, p=0.05 * number, mean=0.01)
    seen.judge("bad.tif", Outcome.ABNORMAL, label=Label.ABNORMAL, p=0.9, mean=0.02, lot="B02")
    seen.judge("escape.tif", Outcome.NORMAL, label=Label.ABNORMAL, p=0.2, mean=0.02, lot="B02")
    seen.judge("overkill.tif", Outcome.ABNORMAL, label=Label.NORMAL, p=0.8, mean=0.02, lot="B02")
    seen.judge("strange.tif", Outcome.REVIEW, label=None, p=0.4, mean=0.2, reasons=("gate-mean",))
    seen.judge("broken.tif", Outcome.UNREADABLE, lot=None, reasons=("truncated",), detail="broken.tif: ends early")
    return seen


class Tags(HTMLParser):
    """Every element of a page, with its attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += " "

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is None:  # else it is a script or a style sheet
            self.text += data


def test_the_worst_mistakes_stay_however_many_scans_stream_by() -> None:
    seen = Seen(pictures=3)
    for number in np.random.default_rng(3).permutation(40):
        seen.judge(f"{number:02}.tif", Outcome.NORMAL, label=Label.ABNORMAL, p=number / 100, mean=0.01)
    assert seen.files(Shelf.ESCAPE) == ["00.tif", "01.tif", "02.tif"]
    assert seen.gallery.offered(Shelf.ESCAPE) == 40


def test_of_equally_bad_scans_the_first_stay() -> None:
    seen = Seen(pictures=2)
    for number in range(5):
        seen.judge(f"{number}.tif", Outcome.REVIEW, reasons=("out-of-spec",))
    assert seen.files(Shelf.OUT_OF_SPEC) == ["0.tif", "1.tif"]


def test_reviewed_scans_are_ordered_by_how_far_they_exceed_a_gate_threshold() -> None:
    seen = Seen(pictures=3)
    for file, mean in (("a", 0.06), ("b", 0.5), ("not-finite", None), ("c", 0.01)):
        seen.judge(file, Outcome.REVIEW, p=0.5, mean=mean, reasons=("gate-mean",))
    assert seen.files(Shelf.REVIEW) == ["not-finite", "b", "a"]


def test_scans_without_a_label_that_were_rejected_have_a_shelf_of_their_own() -> None:
    seen = Seen()
    seen.judge("a", Outcome.ABNORMAL, p=0.6, mean=0.01)
    seen.judge("b", Outcome.ABNORMAL, p=0.9, mean=0.01)
    seen.judge("c", Outcome.NORMAL, p=0.1, mean=0.01)
    assert seen.files(Shelf.FLAGGED) == ["b", "a"]


def test_a_scan_is_pictured_only_if_it_is_still_the_judged_file(tmp_path: Path) -> None:
    model = scripted_model()
    photographer = Photographer(LocalFolder(tmp_path, recursive=False), model, Limits())
    scan = write_scan(tmp_path / "a.tif")
    sha256 = hashlib.sha256(scan.read_bytes()).hexdigest()
    sample = sample_verdict()
    verdict = sample.model_copy(update={"scan": sample.scan.model_copy(update={"sha256": sha256})})
    seen = photographer.picture_of("a.tif", verdict)
    assert seen is not None and seen.heat is not None
    not_asked = verdict.model_copy(update={"durations_ms": verdict.durations_ms.model_copy(update={"infer": None})})
    plain = photographer.picture_of("a.tif", not_asked)
    assert plain is not None and plain.heat is None
    write_scan(scan, seed=9)
    assert photographer.picture_of("a.tif", verdict) is None
    scan.unlink()
    assert photographer.picture_of("a.tif", verdict) is None
    photographer.close()


def test_a_scan_without_a_picture_says_so() -> None:
    seen = Seen()
    seen.judge("other.tif", Outcome.REVIEW, reasons=("out-of-spec",))
    assert "No picture" in seen.html()


def test_scans_that_went_well_have_two_examples_each() -> None:
    seen = a_mixed_lot()
    assert seen.files(Shelf.NORMAL) == ["good0.tif", "good1.tif"]
    assert seen.files(Shelf.ABNORMAL) == ["bad.tif"]


def test_a_picture_puts_heat_and_boxes_where_the_gate_saw_them() -> None:
    image = np.full((1, 2000, 1000), 80, np.uint8)
    residual_map = np.zeros((124, 62), np.float32)
    residual_map[10, 20] = 0.2
    picture = scan_picture(
        image,
        Method.GLOBAL,
        residual_map,
        MapGeometry(cell_px=16, offset_px=8),
        0.05,
        [BoxPx(x_px=328 + 40, y_px=168 + 17, width_px=16, height_px=16)],
        Size(2000, 1000),
    )
    assert (picture.width_px, picture.height_px) == (THUMBNAIL.width_px, 480)
    assert picture.heat is not None
    frame = picture.heat.frame
    assert (frame.x, frame.width) == (pytest.approx(8 * 0.24), pytest.approx(62 * 16 * 0.24))
    heat = cv2.imdecode(np.frombuffer(picture.heat.colours_png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert heat.shape == (124, 62, 4)
    assert np.argwhere(heat[..., 3] > 0).tolist() == [[10, 20]]
    assert heat[10, 20, :3].tolist() == [120, 0, 110]  # blue, green, red
    (box,) = picture.heat.boxes
    assert (box.x, box.y) == (pytest.approx(368 * 0.24), pytest.approx(185 * 0.24))


@pytest.mark.parametrize(("method", "channels"), [(Method.NAIVE, 1), (Method.MIXED, 3), (Method.LOCAL, 1)])
def test_every_conversion_gives_a_picture_a_person_can_see(method: Method, channels: int) -> None:
    ramp = np.tile(np.linspace(6, 10, 100).astype(np.uint8), (200, 1))  # what `naive` leaves of an electrode
    image = np.stack([ramp if method is Method.NAIVE else ramp * 20] * channels)
    if method is Method.MIXED:
        image[[0, 2]] = 0
    picture = scan_picture(image, method, None, GEOMETRY, 0.05, [], Size(200, 100))
    shown = cv2.imdecode(np.frombuffer(picture.scan_jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert int(shown.max()) - int(shown.min()) > 60


def test_figures_are_well_formed_and_name_their_numbers() -> None:
    rng = np.random.default_rng(2)
    p, labels = rng.random(300), rng.integers(0, 2, 300)
    curve = roc(p, labels)
    assert curve is not None
    groups = [
        Group("labelled <normal>", "c-normal", p[labels == 0]),
        Group("labelled abnormal", "c-abnormal", p[labels == 1]),
    ]
    ratios = [Group("normal", "c-normal", rng.lognormal(-1, 0.5, (400, 2)))]
    figures = [
        score_histogram(groups, 0.05, (0.4, 0.6)),
        roc_figure(curve, 0.1, 0.9),
        gate_scatter(ratios),
        interval_bar(0.9, 0.8, 1.0),
        heat_legend(),
    ]
    for figure in figures:
        root = ElementTree.fromstring(figure)
        assert root.tag == "svg" and root.get("aria-label")
    assert f"labelled &lt;normal&gt;, n = {np.sum(labels == 0)}" in figures[0]
    assert "threshold 0.05" in figures[0]


def test_a_single_scan_in_a_thousand_still_shows_in_the_histogram() -> None:
    svg = score_histogram([Group("g", "c-normal", np.array([0.0] * 5000 + [0.9]))], 0.5, None)
    heights = [float(height) for height in re.findall(r'class="c-normal"[^>]*height="([\d.]+)"', svg)]
    assert len(heights) == 2 and min(heights) == 2.0


def test_a_scatter_of_a_whole_year_stays_small_and_keeps_what_went_to_review() -> None:
    ratios = np.random.default_rng(4).uniform(0.1, 0.9, (50_000, 2))
    ratios[777] = 3.0
    svg = gate_scatter([Group("no label", "c-none", ratios)])
    points = svg.count("<circle") - 1  # one of them is the legend's
    assert MAX_POINTS * 0.9 < points <= MAX_POINTS * 1.3
    centres = np.array(re.findall(r'cx="([\d.]+)"', svg), float)
    assert centres.max() > np.sort(centres)[-2] + 50


def test_a_curve_of_many_scores_is_drawn_with_its_corners_only() -> None:
    labels = np.repeat([0, 1], 5000)
    curve = roc(np.linspace(0, 1, 10_000), labels)
    assert curve is not None
    assert roc_figure(curve, 0.0, 1.0).count(" L") == 2


def test_the_report_shows_the_figures_a_plant_asks_for() -> None:
    page = Tags(a_mixed_lot().html("escape_rate<=0.1", "unreadable_count<=1"))
    text = re.sub(r"[\s\u202f\u00a0]+", " ", page.text)
    for expected in (
        "Validation report demo-1",
        "on 11 files of lot",
        "1 of 2 requirements not met",
        "Balanced accuracy 67.9 % 95 % interval",  # (1/2 + 6/7) / 2
        "The 9 labelled scans that the line decided alone have a balanced accuracy of 67.9 %, 95 % interval "
        "40.4 to 89.0 %, over lots: no interval, under 2 lots of a label.",
        "Unreadable 1 of 11 files 95 % interval 1.6 to 37.7 % over 3 lots 0.2 to 82.1 %",
        "1 of 2 labelled abnormal passed",
        "1 of 7 labelled normal rejected",
        "global, 1200 to 48000 counts",
        "abnormal from p = 0.5, review from 0.4 to 0.6",
        "escape_rate <= 0.1 0.5 ✕ not met",
        "unreadable_count <= 1 1 ✓ met",
        "overkill.tif abnormal (classifier); labelled normal: lines, severity 0.7",
        "truncated; 4 000 000 bytes",
        "ends early",
        "no lot",
        "Training: data simulated",
        "2 of 11 judged files have no label",
    ):
        assert expected in text, expected
    pictures = [attributes for tag, attributes in page.tags if tag == "svg" and attributes.get("class") == "picture"]
    assert len(pictures) == 6


def test_the_report_loads_nothing_and_runs_its_own_script_alone() -> None:
    html = a_mixed_lot().html()
    page = Tags(html)
    assert {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "form", "base"} == set()
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [{}]
    assert {(attributes["href"] or "")[0] for tag, attributes in page.tags if tag == "a"} == {"#"}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "data:image/").startswith(("data:image/", "#"))
    assert "url(" not in html.replace("url(#heat)", "")
    policy = next(
        a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    script = html.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_every_scan_is_in_the_table_and_leads_to_its_picture() -> None:
    seen = a_mixed_lot()
    page = seen.html()
    table = page.split('<table id="scans"')[1].split("</table>")[0]
    assert table.count("<tr data-outcome=") == len(seen.rows) == 11
    assert table.count('data-mistake="escape"') == table.count('data-mistake="overkill"') == 1
    for name in ("escape.tif", "good0.tif"):
        (card,) = re.findall(rf'href="#(card-\d+)">{name}<', table)
        assert name in page.split(f'id="{card}"')[1].split("</li>")[0]
    assert 'href="#' not in table.split("broken.tif")[0].rsplit("<tr", 1)[1]


def test_of_too_many_scans_the_table_has_what_wants_a_look_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.validation.report.SCANS_LISTED", 6)
    table = a_mixed_lot().html().split('<table id="scans"')[1].split("</table>")[0]
    assert re.findall(r">([\w]+)\.tif<", table) == ["bad", "escape", "overkill", "strange", "broken", "good0"]


def test_names_of_files_lots_and_kinds_stay_words() -> None:
    seen = Seen()
    tame = a_mixed_lot()
    for outcome, p in ((Outcome.NORMAL, 0.2), (Outcome.REVIEW, 0.4), (Outcome.UNREADABLE, None)):
        seen.judge(HOSTILE, outcome, label=Label.ABNORMAL, p=p, mean=p, lot=HOSTILE, detail=f"{HOSTILE}: {HOSTILE}")
    replay = replace(
        seen.replay(labels_without_file=(HOSTILE,)),
        folder=HOSTILE,
        labels=HOSTILE,
        training={HOSTILE: HOSTILE},
        card=sample_model_card().model_copy(update={"id": HOSTILE, "engine": HOSTILE, "degraded": HOSTILE}),
    )
    html = report_html(replay, seen.gallery)
    page, plain = Tags(html), Tags(tame.html())
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in plain.tags}
    assert {name for _, a in page.tags for name in a} <= {name for _, a in plain.tags for name in a} | {
        "style",
        "class",
    }
    assert "\u202e" not in html
    assert page.text.count("<script>alert(1)</script>") > 8
    assert "{{ 7*7 }}" in page.text


def test_names_that_are_no_utf_8_can_be_written() -> None:
    seen = Seen()
    seen.judge("B01_\udcff.tif", Outcome.NORMAL, label=Label.ABNORMAL, p=0.1, mean=0.01)
    assert b"B01_\\xff.tif" in seen.html().encode("utf-8")
    summary_json(seen.replay()).encode("utf-8")


@pytest.mark.parametrize(
    "outcomes", [[], [Outcome.UNREADABLE], [Outcome.NORMAL]], ids=["nothing", "only unreadable", "no labels"]
)
def test_a_report_of_hardly_anything_can_be_made(outcomes: list[Outcome]) -> None:
    seen = Seen()
    for outcome in outcomes:
        seen.judge("x.tif", outcome, p=0.1 if outcome is Outcome.NORMAL else None, mean=None)
    html = seen.html("balanced_accuracy>=0.9")
    assert "not measured" in html
    assert "nan" not in Tags(html).text.lower()


def test_a_report_says_why_there_is_no_balanced_accuracy() -> None:
    seen = Seen()
    seen.judge("good.tif", Outcome.NORMAL, label=Label.NORMAL, p=0.1, mean=0.01)
    seen.judge("bad.tif", Outcome.REVIEW, label=Label.ABNORMAL, reasons=("out-of-spec",))
    text = Tags(seen.html("balanced_accuracy>=0.9")).text
    assert "no scan of one label has a score" in text
    assert "not measured" in text and "nan" not in text.lower()


def test_the_summary_is_strict_json_with_flat_metrics() -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    summary = json.loads(
        summary_json(a_mixed_lot().replay("auroc>=0.5", labels_without_file=("line 9: gone.tif",))),
        parse_constant=refuse,
    )
    assert summary["schema"] == "replay/1"
    assert summary["metrics"]["escape_rate"] == 0.5
    assert all(value is None or isinstance(value, int | float) for value in summary["metrics"].values())
    assert summary["requirements"] == [{"rule": "auroc >= 0.5", "observed": summary["metrics"]["auroc"], "met": True}]
    assert {"label": "abnormal", "outcome": "normal", "count": 1} in summary["outcomes"]
    assert summary["confusion"]["decided"] == {"tp": 1, "fp": 1, "tn": 6, "fn": 1}
    assert summary["bundles"][-1] == {
        "bundle": None, "scans": 1, "labelled_normal": 0, "labelled_abnormal": 0, "review": 0, "unreadable": 1,
        "escapes": 0, "overkill": 0, "balanced_accuracy": None,
    }  # fmt: skip
    assert summary["labels_without_file"] == ["line 9: gone.tif"]


def test_only_fifty_unreadable_files_are_listed_and_the_others_are_counted() -> None:
    seen = Seen()
    for number in range(UNREADABLE_SHOWN + 7):
        seen.judge(f"{number}.tif", Outcome.UNREADABLE, reasons=("empty",), detail="the file is empty")
    assert f"{UNREADABLE_SHOWN} of {UNREADABLE_SHOWN + 7} are shown" in Tags(seen.html()).text


def test_pictures_of_one_page_do_not_borrow_each_others_scan() -> None:
    html = a_mixed_lot().html()
    keys = re.findall(r'id="(scan-\d+)"', html)
    assert len(keys) == len(set(keys)) == 6
    assert sorted(re.findall(r'<use href="#(scan-\d+)"', html)) == sorted(keys)


def test_the_name_beside_a_picture_is_escaped() -> None:
    picture = scan_picture(np.zeros((1, 20, 10), np.uint8), Method.GLOBAL, None, GEOMETRY, 1.0, [], Size(20, 10))
    root = ElementTree.fromstring(picture_svg(picture, 'a"<b>&', 1))
    assert root.get("aria-label") == 'Scan a"<b>&'
