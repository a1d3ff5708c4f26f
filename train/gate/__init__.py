"""The out-of-distribution gate for electrodes (Lindgren, Zach 2022, for whole scans).

`training` trains the autoencoder, `network` is what runs on the line, `calibration` sets its thresholds, `report` and
`study` say how good it is, on scans it has not seen and on images that are no scans (`foreign_sets`).
"""
