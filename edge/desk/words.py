"""Every word of the pages, in English and German, and the form of their numbers and times: nothing is worded elsewhere.

A word in braces is filled in by the page.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from edge.errors import DeskError, EdgeError, EvidenceError
from edge.evidence.record import NOTES, NoteCode

Language = Literal["en", "de"]
LANGUAGES: Final[tuple[Language, ...]] = ("en", "de")
NOTHING: Final = "\u2013"
"""Shown where there is no number."""

_WORDS: Final[dict[str, tuple[str, str]]] = {
    # frame
    "desk": ("Review desk", "Prüfplatz"),
    "queue": ("Queue", "Liste"),
    "overview": ("Overview", "Übersicht"),
    "log_out": ("Log out", "Abmelden"),
    "language": ("Deutsch", "English"),
    "skip": ("To the content", "Zum Inhalt"),
    "simulated": ("simulated", "simuliert"),
    "reader": ("reader", "Prüfer"),
    "admin": ("admin", "Leitung"),
    # log in
    "log_in": ("Log in", "Anmelden"),
    "account": ("Account", "Konto"),
    "password": ("Password", "Passwort"),
    "wrong_login": ("Account or password is wrong.", "Konto oder Passwort ist falsch."),
    "wait_login": (
        "Too many wrong passwords: the next one counts in {seconds} s.",
        "Zu viele falsche Passwörter: das nächste zählt in {seconds} s.",
    ),
    "login_again": (
        "The session has ended. Log in again: what you entered for a scan is kept in this window.",
        "Die Sitzung ist zu Ende. Bitte neu anmelden: Eingaben zu einem Scan bleiben in diesem Fenster erhalten.",
    ),
    "no_accounts": (
        "There is no account yet. On the line PC: edge-desk user add NAME --role admin",
        "Es gibt noch kein Konto. Auf dem Linien-PC: edge-desk user add NAME --role admin",
    ),
    # queue
    "state": ("Show", "Zeige"),
    "waiting": ("waiting for me", "wartet auf mich"),
    "all": ("all", "alle"),
    "open": ("open", "offen"),
    "second": ("needs a second reader", "braucht zweite Prüfung"),
    "arbiter": ("needs an arbiter", "braucht Entscheid der Leitung"),
    "decided": ("decided", "entschieden"),
    "outcome": ("Line said", "Linie sagt"),
    "lot": ("Lot", "Los"),
    "part": ("Part or file", "Teil oder Datei"),
    "reason": ("Reason", "Grund"),
    "since": ("From day", "Ab Tag"),
    "until": ("To day", "Bis Tag"),
    "any": ("any", "alle"),
    "order": ("Order", "Reihenfolge"),
    "oldest": ("oldest first", "älteste zuerst"),
    "newest": ("newest first", "neueste zuerst"),
    "apply": ("Filter", "Filtern"),
    "clear": ("Clear", "Zurücksetzen"),
    "start": ("Start with the oldest", "Mit dem ältesten beginnen"),
    "count": ("{count} scans", "{count} Scans"),
    "count_one": ("1 scan", "1 Scan"),
    "nothing": ("Nothing waits here.", "Hier wartet nichts."),
    "others_wait": ("{count} scans wait for another reader:", "{count} Scans warten auf andere Prüfer:"),
    "others_wait_one": ("1 scan waits for another reader:", "1 Scan wartet auf andere Prüfer:"),
    "left": ("{count} more wait for you", "{count} weitere warten auf Sie"),
    "left_one": ("1 more waits for you", "1 weiterer wartet auf Sie"),
    "elsewhere": ("Show all that fit: {count}", "Alle passenden zeigen: {count}"),
    "nothing_hint": (
        "New scans appear by themselves. Other filters show what was decided.",
        "Neue Scans erscheinen von selbst. Andere Filter zeigen, was entschieden ist.",
    ),
    "decided_at": ("Judged at", "Beurteilt um"),
    "file": ("File", "Datei"),
    "picture": ("Picture", "Bild"),
    "people": ("People", "Menschen"),
    "hidden": ("hidden", "verdeckt"),
    "hidden_why": (
        "The line's verdict is shown after your first answer.",
        "Das Urteil der Linie erscheint nach Ihrer ersten Antwort.",
    ),
    "hidden_filter": (
        "What the line said is hidden until your first answer: this filter finds only scans you have answered.",
        "Was die Linie sagt, ist bis zu Ihrer ersten Antwort verdeckt: dieser Filter findet nur Scans, die Sie "
        "beantwortet haben.",
    ),
    "older": ("Earlier", "Frühere"),
    "newer": ("Later", "Spätere"),
    "page_of": ("Page {page} of {pages}", "Seite {page} von {pages}"),
    "folder_problem": (
        "The evidence cannot be read just now. What is shown may be old.",
        "Die Belege sind gerade nicht lesbar. Das Gezeigte ist womöglich alt.",
    ),
    "damaged_count": (
        "{count} pieces of evidence are damaged and cannot be shown:",
        "{count} Belege sind beschädigt und können nicht gezeigt werden:",
    ),
    # outcomes and reasons
    "normal": ("normal", "normal"),
    "abnormal": ("abnormal", "abnormal"),
    "undecided": ("undecided", "unentschieden"),
    "review": ("review", "prüfen"),
    "unreadable": ("unreadable", "unlesbar"),
    # scan
    "scan_label": (
        "X-ray scan {file}, {height} by {width} pixels. Keys: see the list at the end of the page.",
        "Röntgenbild {file}, {height} mal {width} Pixel. Tasten: siehe Liste am Ende der Seite.",
    ),
    "loading": ("Loading …", "Lädt …"),
    "load_failed": (
        "The picture did not arrive. Load this page again.",
        "Das Bild ist nicht angekommen. Laden Sie diese Seite neu.",
    ),
    "layer_failed": (
        "This layer is missing or damaged. The picture below it is whole: go by that.",
        "Diese Ebene fehlt oder ist beschädigt. Das Bild darunter ist heil: danach urteilen.",
    ),
    "no_answer": (
        "The desk does not answer, nothing was saved. What you entered is kept in this window: save it again.",
        "Der Prüfplatz antwortet nicht, es wurde nichts gespeichert. Ihre Eingaben bleiben in diesem Fenster: "
        "erneut speichern.",
    ),
    "reduced": (
        "Shown at 1/{step} of its size: the scan has {height} × {width} px.",
        "Gezeigt in 1/{step} der Größe: Der Scan hat {height} × {width} px.",
    ),
    "no_picture": ("There is no picture of this scan.", "Von diesem Scan gibt es kein Bild."),
    "gone": (
        "The pictures were removed meanwhile to make room. The verdict is in the ledger; look at the part itself.",
        "Die Bilder wurden inzwischen entfernt, um Platz zu schaffen. Das Urteil steht im Hauptbuch; "
        "sehen Sie sich das Teil selbst an.",
    ),
    "window": ("Window", "Fenster"),
    "window_model": ("Model", "Modell"),
    "window_full": ("Full", "Voll"),
    "window_local": ("Local", "Lokal"),
    "drag": ("Drag", "Ziehen"),
    "drag_window": ("brightness", "Helligkeit"),
    "drag_pan": ("move", "Verschieben"),
    "drag_box": ("box", "Kasten"),
    "zoom_in": ("Larger", "Größer"),
    "zoom_out": ("Smaller", "Kleiner"),
    "fit": ("Fit", "Einpassen"),
    "one_to_one": ("One pixel of the scan on one of the screen", "Ein Bildpunkt des Scans auf einem des Bildschirms"),
    "turn": ("Turn", "Drehen"),
    "layer_reason": ("Why", "Warum"),
    "layer_residual": ("Residual", "Residuum"),
    "layer_boxes": ("Boxes", "Kästen"),
    "layer_image": ("As the networks saw it", "Wie die Netze es sahen"),
    "layer_invert": ("Invert", "Umkehren"),
    "counts": ("counts", "Zählwerte"),
    "keys": ("Keys", "Tasten"),
    "neighbours": ("Same lot, before and after", "Selbes Los, davor und danach"),
    # what the line said
    "line_said": ("The line", "Die Linie"),
    "why": ("Why", "Warum"),
    "p_abnormal": ("p(abnormal)", "p(abnormal)"),
    "threshold": ("threshold {value}", "Schwelle {value}"),
    "band": ("review band {low} to {high}", "Prüfband {low} bis {high}"),
    "decided_by_classifier": ("p(abnormal) against the threshold", "p(abnormal) gegen die Schwelle"),
    "decided_by_uncertain": ("p(abnormal) lies in the review band", "p(abnormal) liegt im Prüfband"),
    "decided_by_gate-mean": (
        "the gate does not know this image: its mean is over the threshold",
        "das Gate kennt dieses Bild nicht: sein Mittel liegt über der Schwelle",
    ),
    "decided_by_gate-std": (
        "the gate does not know this image: its deviation is over the threshold",
        "das Gate kennt dieses Bild nicht: seine Streuung liegt über der Schwelle",
    ),
    "decided_by_non-finite-score": ("a score is no number", "ein Wert ist keine Zahl"),
    "decided_by_out-of-spec": (
        "the scan is outside what the model was made for",
        "der Scan liegt außerhalb dessen, wofür das Modell gemacht ist",
    ),
    "decided_by_repeated-image": ("this very image was judged before", "genau dieses Bild wurde schon beurteilt"),
    "decided_by_changed-while-reading": (
        "the file changed while it was read",
        "die Datei änderte sich während des Lesens",
    ),
    "decided_by_decoder-crash": ("reading the file ended the reader", "die Datei brachte das Leseprogramm zum Absturz"),
    "decided_by_decoder-failed": ("its pixels cannot be unpacked", "die Bildpunkte lassen sich nicht entpacken"),
    "decided_by_empty": ("the file is empty", "die Datei ist leer"),
    "decided_by_inconsistent-header": ("its header contradicts itself", "der Dateikopf widerspricht sich"),
    "decided_by_multi-page": ("it holds several images", "sie enthält mehrere Bilder"),
    "decided_by_multi-sample": ("it has several values a pixel", "sie hat mehrere Werte je Bildpunkt"),
    "decided_by_no-permission": ("the line may not read it", "die Linie darf sie nicht lesen"),
    "decided_by_not-16-bit": ("it has not 16 bits a pixel", "sie hat keine 16 Bit je Bildpunkt"),
    "decided_by_not-a-file": ("it is no regular file", "sie ist keine gewöhnliche Datei"),
    "decided_by_not-grayscale": ("it is not a grey image", "sie ist kein Graubild"),
    "decided_by_not-tiff": ("it is no TIFF", "sie ist kein TIFF"),
    "decided_by_read-failed": ("the disk or the network did not give it", "Platte oder Netz gaben sie nicht her"),
    "decided_by_too-large": ("it is larger than the line reads", "sie ist größer, als die Linie liest"),
    "decided_by_truncated": ("the file ends too early", "die Datei endet zu früh"),
    "decided_by_unsupported-compression": ("its compression is not read", "ihre Kompression wird nicht gelesen"),
    "decided_by_vanished": ("it was gone before it was read", "sie verschwand, bevor sie gelesen wurde"),
    "decided_by_zero-tail": ("zeros where pixels should be", "Nullen, wo Bildpunkte sein sollten"),
    "note_of_line": ("The line noted:", "Die Linie vermerkt:"),
    **{
        f"note_{code}": (NOTES[code], german)
        for code, german in {
            NoteCode.DROPPED: "die Bilder fielen weg: {count} andere Urteile warteten auf ihre",
            NoteCode.FILE_CHANGED: "die Datei ist nicht aufgehoben: sie enthält nicht mehr, was beurteilt wurde",
            NoteCode.FILE_REPLACED: "die Datei ist nicht aufgehoben: inzwischen trägt eine andere ihren Namen",
            NoteCode.FILE_TOO_LARGE: "die Datei ist nicht aufgehoben: mehr als {count} Bytes",
            NoteCode.FILE_UNREADABLE: "die Datei ist nicht aufgehoben",
            NoteCode.IMAGE_TOO_LARGE: "das Bild der Netze ist nicht aufgehoben: der Scan lässt sich kaum komprimieren; "
            "seine Umrechnung ergibt es",
            NoteCode.NO_PIXELS: "keine Bilder: die Datei hat keine Bildpunkte, denen zu trauen ist",
            NoteCode.NO_REASON_MAP: "keine Karte dessen, was für abnormal spricht",
            NoteCode.OUT_OF_RANGE: "kein Bild der Netze, kein Residuum: für diesen Scan ist das Modell nicht gemacht",
            NoteCode.REPEATED: "kein Residuum: das Bild wurde schon beurteilt, die Netze wurden nicht gefragt",
            NoteCode.SCAN_TOO_LARGE: "der Scan ist nicht aufgehoben: mehr Bildpunkte, als von einem Scan ohne Urteil "
            "der Netze gehalten werden",
        }.items()
    },
    "reason_place": ("Strongest place", "Stärkste Stelle"),
    "reason_box": ("{width} × {height} px at x {x}, y {y}", "{width} × {height} px bei x {x}, y {y}"),
    "reason_share": ("{share} of what speaks for abnormal", "{share} dessen, was für abnormal spricht"),
    "reason_nowhere": ("no place says more than the threshold", "keine Stelle sagt mehr als die Schwelle"),
    "reason_none": ("unknown: no map from this model", "unbekannt: keine Karte von diesem Modell"),
    "residual_legend": (
        "What the gate could not reproduce: clear, below half its threshold; yellow, at the threshold; dark, at four "
        "times that.",
        "Was das Gate nicht nachbilden konnte: klar, unter der halben Schwelle; gelb, an der Schwelle; dunkel, beim "
        "Vierfachen.",
    ),
    "reason_legend": (
        "What speaks for abnormal: clear, no more than the threshold; dark and framed, the strongest place. It shows "
        "where the classifier's answer comes from, not what is wrong there.",
        "Was für abnormal spricht: klar, nicht mehr als die Schwelle; dunkel und gerahmt, die stärkste Stelle. Es "
        "zeigt, woher die Antwort des Klassifikators kommt, nicht was dort falsch ist.",
    ),
    "gate": ("Gate, mean / deviation", "Gate, Mittel / Streuung"),
    "model": ("Model", "Modell"),
    "size": ("Size", "Größe"),
    "sha256": ("SHA-256 of the file", "SHA-256 der Datei"),
    "kept": ("Kept as", "Aufgehoben als"),
    "kept_outcome": ("result of the line", "Ergebnis der Linie"),
    "kept_sample": ("blind control (drawn by lot)", "Blindkontrolle (ausgelost)"),
    "kept_challenge": ("blind control (known scan)", "Blindkontrolle (bekannter Scan)"),
    "repeats": ("These bytes were judged before", "Diese Bytes wurden schon beurteilt"),
    "repeats_away": ("(not kept: edge-worker show)", "(nicht aufgehoben: edge-worker show)"),
    # answer
    "answer": ("Your answer", "Ihre Antwort"),
    "answer_again": ("Change your answer", "Antwort ändern"),
    "kinds": ("What is it", "Was ist es"),
    "severity": ("How severe", "Wie schwer"),
    "severity_none": ("not said", "keine Angabe"),
    "severity_mild": ("mild", "leicht"),
    "severity_clear": ("clear", "deutlich"),
    "severity_severe": ("severe", "schwer"),
    "boxes": ("Boxes", "Kästen"),
    "boxes_none": ("none drawn", "keiner gezeichnet"),
    "boxes_count": ("{count} drawn", "{count} gezeichnet"),
    "box_hint": (
        "Drag a box; or arrows move one, with Shift its size, Enter keeps it, Esc drops it.",
        "Kasten aufziehen; oder Pfeile bewegen einen, mit Umschalt die Größe, Enter behält, Esc verwirft ihn.",
    ),
    "box_remove": ("Remove the last", "Letzten entfernen"),
    "comment": ("Comment", "Kommentar"),
    "save": ("Save", "Speichern"),
    "next": ("Next scan", "Nächster Scan"),
    "not_now": ("Not now", "Nicht jetzt"),
    "back": ("Back to the queue", "Zurück zur Liste"),
    "answers": ("Answers", "Antworten"),
    "answered": ("{account} said {decision}", "{account} sagt {decision}"),
    "read_first": ("first reader", "erste Prüfung"),
    "read_second": ("second reader", "zweite Prüfung"),
    "read_third": ("arbiter", "Entscheid"),
    "stands": ("Together", "Zusammen"),
    "not_asked": (
        "No further answer is needed; one more is kept all the same.",
        "Eine weitere Antwort ist nicht nötig; sie wird trotzdem aufgehoben.",
    ),
    "both_answered": (
        "{account} answered while you looked. Both answers are kept; together they say: {standing}.",
        "{account} hat geantwortet, während Sie hinsahen. Beide Antworten zählen; zusammen: {standing}.",
    ),
    "answered_twice": (
        "You had already answered this scan in another window. Both answers are kept; the later one counts.",
        "Sie hatten diesen Scan in einem anderen Fenster schon beantwortet. Beide Antworten bleiben aufgehoben; "
        "die spätere zählt.",
    ),
    "saved": ("Saved.", "Gespeichert."),
    "choose": ("Choose normal, abnormal or undecided.", "Bitte normal, abnormal oder unentschieden wählen."),
    # kinds of defect, as delivered; a plant's own are shown as it names them
    "kind_scratches": ("scratches", "Kratzer"),
    "kind_lines": ("lines", "Linien"),
    "kind_edge-cuts": ("edge cuts", "Schnitte am Rand"),
    "kind_edge-tensions": ("edge tensions", "Spannungen am Rand"),
    "kind_smudges": ("smudges", "Flecken"),
    "kind_edge-ink-flow": ("ink flow at the edge", "Tinte läuft am Rand"),
    "kind_bubbles": ("bubbles", "Blasen"),
    "kind_missing-ink": ("missing ink", "fehlende Tinte"),
    "kind_agglomerate": ("agglomerate", "Klumpen"),
    "kind_ink-fluctuations": ("ink fluctuations", "ungleiche Tinte"),
    "kind_ink-entry-exit": ("ink entry and exit", "Ein- und Auslauf"),
    # keys
    "key_answer": ("normal, abnormal, undecided", "normal, abnormal, unentschieden"),
    "key_kinds": ("kind; from the tenth on with Shift", "Art; ab der zehnten mit Umschalt"),
    "key_save": ("save; then the next scan", "speichern; dann der nächste Scan"),
    "key_comment": ("comment", "Kommentar"),
    "key_box": (
        "draw a box: mouse, or arrows (Shift: its size) and Enter; Backspace removes it",
        "Kasten zeichnen: Maus, oder Pfeile (Umschalt: Größe) und Enter; Rücktaste entfernt ihn",
    ),
    "key_windows": ("window: model, full, local", "Fenster: Modell, voll, lokal"),
    "key_level": ("brighter, darker, softer, harder", "heller, dunkler, weicher, härter"),
    "key_zoom": (
        "zoom, 1:1, fit, turn; arrows move",
        "Zoom, 1:1, einpassen, drehen; Pfeile verschieben",
    ),
    "key_layers": (
        "why, residual, boxes, networks' image, invert",
        "warum, Residuum, Kästen, Bild der Netze, umkehren",
    ),
    "key_next": ("next scan, back to the queue", "nächster Scan, zurück zur Liste"),
    # overview
    "today": ("Today", "Heute"),
    "unsent": ("Not yet at the broker", "Noch nicht beim Broker"),
    "latency": ("From file to verdict, p50", "Von Datei zu Urteil, p50"),
    "latency_of": ("p99 {p99}, newest {count} scans", "p99 {p99}, neueste {count} Scans"),
    "last_verdict": ("Last verdict", "Letztes Urteil"),
    "wait_count": ("Wait for a person", "Warten auf einen Menschen"),
    "wait_mine": ("{count} of them for you", "{count} davon für Sie"),
    "handing": ("Answers not yet with the worker", "Antworten noch nicht beim Worker"),
    "agreement": ("Line and people", "Linie und Menschen"),
    "agreement_note": (
        "Decided scans: what the line said (rows) and what people said (columns).",
        "Entschiedene Scans: was die Linie sagte (Zeilen) und was Menschen sagten (Spalten).",
    ),
    "escapes": ("Escapes found by blind controls", "Schlupf nach Blindkontrollen"),
    "escapes_of": (
        "{hits} of {total} controls the line called normal are abnormal",
        "{hits} von {total} Kontrollen, die die Linie normal nannte, sind abnormal",
    ),
    "interval": ("95 % interval {low} to {high}", "95-%-Intervall {low} bis {high}"),
    "no_controls": ("no control is decided yet", "noch keine Kontrolle entschieden"),
    "readers": ("Readers", "Prüfer"),
    "reader_answers": ("Answers", "Antworten"),
    "reader_seconds": ("Median seconds", "Sekunden (Median)"),
    "reader_agrees": ("Agrees with the line", "Einig mit der Linie"),
    "reader_known": ("Right on known scans", "Richtig bei bekannten Scans"),
    "drift": ("Drift", "Drift"),
    "drift_p_abnormal": ("p(abnormal)", "p(abnormal)"),
    "drift_gate_mean_max": ("gate, mean", "Gate, Mittel"),
    "drift_gate_std_max": ("gate, deviation", "Gate, Streuung"),
    "drift_note": (
        "Each curve is the running mean of a score over about the last 50 scans, up to 7 days back.",
        "Jede Kurve ist das laufende Mittel eines Wertes über etwa 50 Scans, bis zu 7 Tage zurück.",
    ),
    "no_health": (
        "The worker has not told anything yet: counts, backlog, alarms and drift are missing.",
        "Der Worker hat noch nichts gemeldet: Zahlen, Rückstau, Alarme und Drift fehlen.",
    ),
    "old_health": (
        "The worker last told something at {at}: it does not run, or its disk fails.",
        "Der Worker hat sich zuletzt um {at} gemeldet: er läuft nicht, oder seine Platte ist gestört.",
    ),
    "alarms": ("Alarms", "Alarme"),
    "alarm_folder-away": ("the station's folder is away", "der Ordner der Station ist weg"),
    "alarm_folder-partly-read": ("part of the folder cannot be read", "ein Teil des Ordners ist nicht lesbar"),
    "alarm_intake-stopped": ("verdicts cannot be stored", "Urteile lassen sich nicht speichern"),
    "alarm_scans-refused": ("scans are unreadable", "Scans sind unlesbar"),
    "alarm_scans-repeated": ("the same image comes again", "dasselbe Bild kommt wieder"),
    "alarm_scans-rewritten": ("judged scans were written anew", "beurteilte Scans wurden neu geschrieben"),
    "alarm_scans-unmarked": ("scans wait for their mark", "Scans warten auf ihre Marke"),
    "alarm_part-unknown": ("file names tell no part", "Dateinamen nennen kein Teil"),
    "alarm_scans-not-moved": ("judged scans cannot be moved", "beurteilte Scans lassen sich nicht verschieben"),
    "alarm_scans-not-readable": ("scans get no verdict: reading fails", "Scans ohne Urteil: das Lesen misslingt"),
    "alarm_clock-behind": ("the clock is wrong", "die Uhr geht falsch"),
    "alarm_disk-low": ("the disk is nearly full", "die Platte ist fast voll"),
    "alarm_evidence-dropped": ("evidence was dropped", "Belege wurden ausgelassen"),
    "alarm_outbox-stuck": ("messages do not leave", "Nachrichten gehen nicht ab"),
    "alarm_broker-away": ("the broker is away", "der Broker ist weg"),
    "alarm_broker-refuses": ("the broker refuses the station", "der Broker weist die Station ab"),
    "alarm_station-twice": ("another worker has this station's name", "ein zweiter Worker trägt diesen Stationsnamen"),
    "alarm_verdict-refused": ("the broker refuses verdicts", "der Broker weist Urteile ab"),
    "alarm_no-subscriber": ("the verdicts have no subscriber", "niemand empfängt die Urteile"),
    "alarm_no-retain": ("the broker keeps no messages", "der Broker bewahrt keine Nachrichten"),
    "alarm_request-refused": ("a request was refused", "ein Auftrag wurde abgewiesen"),
    "alarm_message-damaged": ("a stored message is damaged", "eine gespeicherte Nachricht ist beschädigt"),
    "alarm_ledger-renewed": ("the ledger goes on under a new id", "das Hauptbuch läuft unter neuer Kennung"),
    "alarm_degraded": ("the GPU is not used", "die GPU wird nicht genutzt"),
    "alarm_start-refused": ("the worker refused to start", "der Worker verweigerte den Start"),
    "backlog": ("Scans not yet judged", "Noch nicht beurteilte Scans"),
    "record_head": ("Record", "Protokoll"),
    "record_note": (
        "Hash of the newest entry. Note it elsewhere: edge-desk verify --head checks against it.",
        "Hash des neuesten Eintrags. Anderswo notieren: edge-desk verify --head prüft dagegen.",
    ),
    # messages
    "not_found": ("There is no such page or scan.", "Diese Seite oder diesen Scan gibt es nicht."),
    "forbidden": (
        "This request did not come from this desk's own page. Nothing was saved.",
        "Diese Anfrage kam nicht von einer Seite dieses Prüfplatzes. Es wurde nichts gespeichert.",
    ),
    "bad_request": ("This request makes no sense here.", "Diese Anfrage ergibt hier keinen Sinn."),
    "too_large": ("That is too much text or too many boxes.", "Das ist zu viel Text oder zu viele Kästen."),
    "is_hidden": (
        "This is shown after your first answer.",
        "Das wird nach Ihrer ersten Antwort gezeigt.",
    ),
    "fault_damaged": (
        "A file of the evidence is missing, damaged or was changed: it is not shown.",
        "Eine Datei der Belege fehlt, ist beschädigt oder wurde verändert: Sie wird nicht gezeigt.",
    ),
    "fault_damaged_try": (
        "judge the part itself, or its scan where the station still has it. Your answer is taken here all the same.",
        "das Teil selbst beurteilen, oder seinen Scan, falls die Station ihn noch hat. Ihre Antwort wird hier "
        "trotzdem angenommen.",
    ),
    "fault_gone": (
        "The pictures were removed meanwhile to make room, or were never kept.",
        "Die Bilder wurden inzwischen entfernt, um Platz zu schaffen, oder nie aufgehoben.",
    ),
    "fault_gone_try": ("look at the part itself.", "das Teil selbst ansehen."),
    "fault_no-access": (
        "The system does not let this desk read the evidence.",
        "Das System lässt diesen Prüfplatz die Belege nicht lesen.",
    ),
    "fault_no-access_try": (
        "ask those who look after the line PC: rights of the folder, or its disk.",
        "bei der Betreuung des Linien-PC nachfragen: Rechte des Ordners oder dessen Platte.",
    ),
    "fault_not-kept": ("This picture was not kept.", "Dieses Bild wurde nicht aufgehoben."),
    "fault_not-kept_try": (
        "nothing is wrong with the others: go by them.",
        "die anderen Bilder sind in Ordnung: nach ihnen urteilen.",
    ),
    "fault_too-large": ("The scan is too large to be shown here.", "Der Scan ist zu groß, um hier gezeigt zu werden."),
    "fault_too-large_try": (
        "look at the file itself with a program for large images.",
        "die Datei selbst mit einem Programm für große Bilder ansehen.",
    ),
    "fault_full": (
        "The desk's disk is full: nothing was saved.",
        "Die Platte des Prüfplatzes ist voll: Es wurde nichts gespeichert.",
    ),
    "fault_full_try": (
        "free some space there, then send it again: what you entered is still in this window.",
        "dort Platz schaffen und erneut senden: Ihre Eingaben sind noch in diesem Fenster.",
    ),
    "fault_busy": (
        "Another program holds the desk's file: nothing was saved.",
        "Ein anderes Programm hält die Datei des Prüfplatzes: Es wurde nichts gespeichert.",
    ),
    "fault_busy_try": ("send it again.", "erneut senden."),
    "fault_changed": (
        "The desk's file was exchanged, cut or upgraded while the desk ran: nothing was saved.",
        "Die Datei des Prüfplatzes wurde im Betrieb ausgetauscht, gekürzt oder umgestellt: "
        "Es wurde nichts gespeichert.",
    ),
    "fault_changed_try": (
        "ask those who look after the line PC: edge-desk verify, then restart the desk. What you entered is still in "
        "this window.",
        "bei der Betreuung des Linien-PC nachfragen: edge-desk verify, dann den Prüfplatz neu starten. Ihre Eingaben "
        "sind noch in diesem Fenster.",
    ),
    "fault_disk": (
        "The desk's file cannot be written: nothing was saved.",
        "Die Datei des Prüfplatzes ist nicht beschreibbar: Es wurde nichts gespeichert.",
    ),
    "fault_disk_try": (
        "ask those who look after the line PC, then send it again: what you entered is still in this window.",
        "bei der Betreuung des Linien-PC nachfragen und erneut senden: Ihre Eingaben sind noch in diesem Fenster.",
    ),
    "fault_refused": ("Nothing was saved.", "Es wurde nichts gespeichert."),
    "fault_refused_try": ("see the detail.", "siehe unten."),
    "fault_other": ("This page cannot be shown.", "Diese Seite kann nicht gezeigt werden."),
    "fault_other_try": ("see the detail.", "siehe unten."),
    "detail": ("In detail:", "Im Einzelnen:"),
    "problem": ("Something is wrong", "Etwas stimmt nicht"),
    "try": ("Try: {hint}", "Was Sie tun können: {hint}"),
    "defect": (
        "A defect of this program. It is in the log; nothing was saved.",
        "Ein Fehler dieses Programms. Er steht im Log; es wurde nichts gespeichert.",
    ),
}


def word(language: Language, key: str, **values: object) -> str:
    """The word of a page; KeyError for one that is not listed."""
    text = _WORDS[key][LANGUAGES.index(language)]
    return text.format(**values) if values else text


def name_code(language: Language, prefix: str, code: str) -> str:
    """A code of the product in words, such as `alarm_` and `disk-low`; one that is not listed is shown as it stands."""
    return word(language, key) if (key := prefix + code) in _WORDS else code


def number(language: Language, value: float | None) -> str:
    """Three digits, with the reader's decimal sign."""
    return _figure(language, value, ".3g")


def percent(language: Language, share: float | None) -> str:
    """A share of 1 in percent, with one decimal."""
    text = _figure(language, None if share is None else 100 * share, ".1f")
    return text if text == NOTHING else f"{text} %"


def seconds(language: Language, value: float) -> str:
    """A duration given in seconds, in milliseconds below one."""
    return f"{value * 1e3:.0f} ms" if value < 1 else f"{_figure(language, value, '.1f')} s"


def _figure(language: Language, value: float | None, form: str) -> str:
    if value is None or not math.isfinite(value):
        return NOTHING
    text = format(value, form)
    return text.replace(".", ",") if language == "de" else text


def moment(language: Language, at: datetime) -> str:
    """Date and time of day by the desk's own clock."""
    return format(at.astimezone(), "%d.%m.%Y %H:%M:%S" if language == "de" else "%Y-%m-%d %H:%M:%S")


def short_moment(language: Language, at: datetime) -> str:
    """A moment within the last days, to the minute."""
    return format(at.astimezone(), "%d.%m. %H:%M" if language == "de" else "%m-%d %H:%M")


def clock(_: Language, at: datetime) -> str:
    """Time of day alone."""
    return format(at.astimezone(), "%H:%M:%S")


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is wrong, in the reader's language."""

    text: str
    hint: str = ""
    detail: str = ""
    """The program's own message, in English as in the log: names the file."""


def fault_of(language: Language, error: EdgeError) -> Fault:
    """What an error of a lower room is to a reader."""
    key = f"fault_{error.reason}" if isinstance(error, DeskError | EvidenceError) else "fault_other"
    return Fault(word(language, key), word(language, f"{key}_try"), error.message)


def keys() -> tuple[str, ...]:
    """All words there are."""
    return tuple(_WORDS)


def choose_language(accept_language: str) -> Language:
    """The first language of an Accept-Language header that the desk speaks; English where it speaks none."""
    weighted = []
    for position, part in enumerate(accept_language.split(",")[:20]):
        name, _, quality = part.strip().partition(";q=")
        try:
            weight = float(quality) if quality else 1.0
        except ValueError:
            weight = 0.0
        weighted.append((-weight, position, name.strip().lower()[:2]))
    for _, _, name in sorted(weighted):
        for language in LANGUAGES:
            if name == language:
                return language
    return "en"
