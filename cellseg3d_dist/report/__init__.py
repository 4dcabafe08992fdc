"""The report of a run: one self-contained HTML page."""

from cellseg3d_dist.report.data import (
    Certificate,
    FailedBlock,
    Method,
    Projection,
    ReportData,
    Skipped,
    StageTiming,
    Threshold,
    Truth,
)
from cellseg3d_dist.report.html import render_report, write_report
from cellseg3d_dist.report.seams import SeamCheck, seam_check

__all__ = [
    "Certificate",
    "FailedBlock",
    "Method",
    "Projection",
    "ReportData",
    "SeamCheck",
    "Skipped",
    "StageTiming",
    "Threshold",
    "Truth",
    "render_report",
    "seam_check",
    "write_report",
]
