"""The main job's stages in order: survey, threshold, label, merge, relabel, pyramid, cells.

Each step runs a stage through the :class:`~cellseg3d_dist.engine.runner.Runner`, which
skips what its journal holds, and passes on small results. Nothing here touches a voxel.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from typing import Any

import numpy as np

from cellseg3d_dist.engine import decoding, labelling, prediction, preprocessing
from cellseg3d_dist.engine.cell_tables import write_tables
from cellseg3d_dist.engine.clean_up import clean_up
from cellseg3d_dist.engine.earlier import with_fragments
from cellseg3d_dist.engine.fragments import Fragments
from cellseg3d_dist.engine.job import Job
from cellseg3d_dist.engine.merge import merge_fragments
from cellseg3d_dist.engine.merge_result import MergeResult
from cellseg3d_dist.engine.overlap import label_by_overlap
from cellseg3d_dist.engine.records import digest
from cellseg3d_dist.engine.stages.pyramid import Pyramid
from cellseg3d_dist.engine.stages.relabel import Relabel
from cellseg3d_dist.engine.stages.score import LabelPair, Score
from cellseg3d_dist.engine.stages.survey import SurveyResult, projection_steps
from cellseg3d_dist.engine.stages.threshold import Threshold, total_counts
from cellseg3d_dist.engine.surveying import survey_facts, survey_of
from cellseg3d_dist.engine.watershed import watershed
from cellseg3d_dist.grid import Region, Selection, Triple, ceil_div
from cellseg3d_dist.instances.filters import Sigma
from cellseg3d_dist.instances.threshold import otsu
from cellseg3d_dist.measuring.partial import intensity_scale
from cellseg3d_dist.metrics.summary import summarise
from cellseg3d_dist.volumes import StoredImage, create_image, plan_image

#: Share of foreground above which Otsu is doubted; nuclei fill less of most tissues.
LARGE_FOREGROUND = 0.2
#: The stored value of a foreground of 1.
STORED_ONE = 255.0


class Pipeline(Job):
    """The steps of a run; :meth:`run` fills :attr:`facts`."""

    def run(self) -> dict[str, Any]:
        """Do everything up to tables and scores; what is done already is skipped.

        Raises
        ------
        Interrupted
            If a stop was requested; what was in flight is noted.
        EnvironmentFailedError
            If disk or cluster failed.
        """
        survey = self._survey()
        fragments, labelled = self._fragments(survey)
        merged = self.merge(fragments, labelled)
        self._warn()
        with self.runner.step("clean-up"):
            cells = clean_up(self, fragments, labelled, merged)
        fragments, labelled, merged = cells.fragments, cells.blocks, cells.merged
        labels = self.label_image(merged)
        relabel, records = self.relabel(fragments, labels, labelled, merged, survey.magnitudes)
        written = self._written(merged)
        self._pyramid(labels, labelled, written)
        labels.sweep()
        with self.runner.step("tables"):
            write_tables(self, relabel, records, merged.n_cells)
        with self.runner.step("scores"):
            self._score(labels, written)
        return self.facts

    def _fragments(self, survey: SurveyResult) -> tuple[Fragments, Selection]:
        """Fragments and the blocks that have them; those of an earlier run where they hold."""
        if self.earlier is not None:
            kept = self.earlier.fragments(self.config, self.grid)
            if kept is not None:
                self.facts |= self.earlier.labelled_facts()
                if self.method.predicts and self.config.clean_up is not None:
                    prediction.predict(self, survey)
                self.runner.progress.say(f"fragments    of {self.earlier.folder.path}")
                return kept, with_fragments(kept)
        fragments = Fragments(self.folder.work, self.grid)
        return fragments, self._label(survey, fragments)

    def _label(self, survey: SurveyResult, fragments: Fragments) -> Selection:
        """Fragments of the image, or of what the network makes of it."""
        if self.method.predicts:
            predicted = prediction.predict(self, survey)
            if self.config.instances == "decode":
                return decoding.decode(self, fragments, predicted)
            self.foreground = prediction.foreground_of(self)
            survey = self._survey_foreground()
        if self.method.labeller is not None:
            return label_by_overlap(self, fragments, survey)
        threshold = self._threshold(survey)
        selection = self._occupied(survey, threshold)
        if self.config.instances == "watershed":
            unit = 1.0 if self.foreground is None else STORED_ONE
            return watershed(self, fragments, selection, threshold, unit)
        return labelling.label(self, fragments, selection, threshold)

    def _written(self, merged: MergeResult) -> str:
        """What decides the labels on disk: the merge, and which blocks failed and are 0."""
        failed = np.array(sorted(self.runner.failed), np.int64)
        return f"{merged.lookup_digest}-{digest(failed)}" if failed.size else merged.lookup_digest

    def _survey(self) -> SurveyResult:
        network = self.method.predicts
        smooth = None if network else self._smoothing
        prepares = self.config.preprocess is not None
        result = survey_of(self, self.image, None if prepares else smooth)
        self.facts["survey"] = survey_facts(result)
        z, y, x = result.projections
        steps = np.array(projection_steps(self.grid.shape))
        np.savez_compressed(self.folder.path / "survey.npz", z=z, y=y, x=x, steps=steps)
        if not prepares:
            return result
        self.prepared = preprocessing.prepare(self, result)
        seen = survey_of(
            self,
            self.prepared,
            smooth,
            "prepared",
            percentiles=network or self.method.labeller is not None,
        )
        self.facts["preprocessing"]["survey"] = survey_facts(seen)
        # cells are measured in the image as it is
        return replace(seen, magnitudes=result.magnitudes)

    @property
    def _smoothing(self) -> Sigma | None:
        return self.plan.outline_sigma if any(self.plan.outline_sigma) else None

    def _survey_foreground(self) -> SurveyResult:
        """The survey of a network's foreground, for the blocks that it occupies."""
        return survey_of(self, self.source, self._smoothing, "foreground")

    def _threshold(self, survey: SurveyResult) -> float:
        """In the units of what is thresholded; a network's foreground is stored as 0 to 255."""
        unit = 1.0 if self.foreground is None else STORED_ONE
        how, value = "given", self.config.threshold
        if value == "otsu":
            how, found = "otsu", self._otsu(survey)
        else:
            assert value is not None
            found = float(value) * unit
        self.facts["threshold"] = {"value": found / unit, "how": how} | self.facts.pop("otsu", {})
        return found

    def _otsu(self, survey: SurveyResult) -> float:
        low, high = survey.smooth_minimum, survey.smooth_maximum
        if not high > low:
            return high
        stage = Threshold(self.source, self.grid, self.plan.outline_sigma, low, high)
        known_zero = survey.zero_blocks & ~np.isnan(survey.block_maximum)
        counted = np.flatnonzero(~np.isnan(survey.block_maximum) & ~known_zero)
        records = list(self.runner.run(stage, Selection(self.grid, counted)))
        # a block that is all 0 with its halo is known without reading it again
        zero = int(survey.block_voxels[known_zero].sum())
        counts = total_counts(records, zero, low, high)
        unit = 1.0 if self.foreground is None else STORED_ONE
        self.facts["otsu"] = {"counts": counts.tolist(), "low": low / unit, "high": high / unit}
        return otsu(counts, low, high)

    def _warn(self) -> None:
        """Say what a user should look at before trusting the counts."""
        warnings = self.facts["warnings"] = []
        survey, certificate = self.facts["survey"], self.facts.get("certificate", {})
        if survey["not_finite"]:
            warnings.append(
                f"{survey['not_finite']} voxels are NaN or infinite and were taken as 0."
            )
        if survey["minimum"] == survey["maximum"]:
            warnings.append("The image is constant: there is nothing to find.")
        share = certificate.get("voxels", 0) / max(survey["voxels"], 1)
        how = self.facts.get("threshold", {}).get("how")
        if how == "otsu" and self.foreground is None and share > LARGE_FOREGROUND:
            warnings.append(
                f"{share:.0%} of the volume is above Otsu's threshold "
                f"{self.facts['threshold']['value']:.4g}, which may part tissue from background "
                f"instead of cells from tissue. Look at the outlines; if so, give --threshold."
            )
        for text in warnings:
            self.runner.progress.say(f"warning: {text}")

    def _occupied(self, survey: SurveyResult, threshold: float) -> Selection:
        """Blocks that have foreground: the largest smoothed value of each is known exactly."""
        largest = survey.block_maximum
        above = (largest > threshold) | (largest.astype(np.float32) > np.float32(threshold))
        selection = self._sound(Selection(self.grid, np.flatnonzero(above)))
        outside = int(np.isnan(largest).sum()) - len(self.runner.failed)
        self.facts["blocks"] = {
            "total": self.grid.n_blocks,
            "occupied": len(selection),
            "below_threshold": int((~np.isnan(largest) & ~above).sum()),
            "outside_mask": max(0, outside),
        }
        return selection

    def _sound(self, selection: Selection) -> Selection:
        """Without blocks that have failed."""
        return selection.without(list(self.runner.failed))

    def merge(self, fragments: Fragments, labelled: Selection) -> MergeResult:
        """Unite fragments, by contact for components and else by name; apply size limits."""
        size = self.image.volume.voxel_size
        smallest, largest = self.config.min_volume, self.config.max_volume
        fewest = math.ceil(smallest.voxels(size) - 1e-9) if smallest else None
        if fewest is None and self.config.instances == "decode":
            fewest = self.method.parameters.min_voxels
        edges_from = None
        if self.config.instances == "components":
            edges_from = fragments.folder / "contacts"
        elif self.method.labeller is not None:
            edges_from = fragments.folder / "overlaps"
        self.runner.progress.say("merge")
        with self.runner.step("merge"):
            merged = merge_fragments(
                fragments,
                labelled,
                edges_from,
                self.folder.work / "merge",
                fewest,
                math.floor(largest.voxels(size) + 1e-9) if largest else None,
                self.runner,
            )
        self.facts["merge"] = merged.to_dict()
        return merged

    def label_image(self, merged: MergeResult) -> StoredImage:
        """The image the labels go to; made anew where an earlier merge was another one."""
        how: dict[str, Any] = dict(  # noqa: C408
            shape=self.grid.shape,
            dtype=merged.dtype,
            block_shape=self.grid.block_shape,
            voxel_size=self.image.volume.voxel_size,
            origin=self.image.volume.origin,
            kind="labels",
            format=self.config.ome_zarr,
        )
        image = plan_image(self.folder.labels, **how)
        status = self.folder.status()
        if self.folder.labels.exists() and status.get("lookup") != merged.lookup_digest:
            shutil.rmtree(self.folder.labels)
        if not self.folder.labels.exists():
            create_image(self.folder.labels, **how, name="labels")
        self.folder.update_status(lookup=merged.lookup_digest)
        return image

    def relabel(
        self,
        fragments: Fragments,
        labels: StoredImage,
        labelled: Selection,
        merged: MergeResult,
        magnitudes: tuple[float, ...],
    ) -> tuple[Relabel, list[dict[str, Any]]]:
        """Write final labels and partial statistics; the stage and its records.

        ``magnitudes`` are the largest of each channel, over the whole volume.
        """
        dtype = self.image.volume.dtype
        stage = Relabel(
            self.image,
            fragments,
            labels.levels[0],
            self.folder.work,
            merged.lookup,
            merged.lookup_digest,
            tuple(intensity_scale(dtype, largest) for largest in magnitudes),
        )
        records = list(self.runner.run(stage, self._sound(labelled)))
        return stage, records

    def _pyramid(self, labels: StoredImage, labelled: Selection, written: str) -> None:
        below = [block.write_region for block in self._sound(labelled)]
        for level in range(1, len(labels.levels)):
            stage = Pyramid(labels, level, written)
            grid, factors = labels.levels[level].grid, labels.factors[level - 1]
            touched = {
                b.number for region in below for b in grid.overlapping(_down(region, factors))
            }
            selection = Selection(grid, np.array(sorted(touched), np.int64))
            done = {record["block"] for record in self.runner.run(stage, selection)}
            lost = selection.without(done)
            if len(lost):
                # the level above is made of what is there, and made anew once this is whole
                written = f"{written}-{digest(lost.numbers)}"
            below = [block.write_region for block in selection]

    def _score(self, labels: StoredImage, written: str) -> None:
        if self.labels_true is None:
            return
        found = labels.levels[0]
        pair = LabelPair(self.labels_true, found, f"{self.labels_true.fingerprint()} {written}")
        stage = Score((pair,), (self.grid,), self.folder.work)
        (totals,) = stage.totals(self.runner.run(stage, stage.blocks))
        scored = summarise(
            totals.tables["pairs"],
            labels_true=self.labels_true.location,
            labels_pred=self.folder.labels.name,
        ).to_dict()
        partial_path = self.folder.path / "scores.json.partial"
        partial_path.write_text(json.dumps(scored, indent=1))
        partial_path.replace(self.folder.path / "scores.json")
        half = next(score for score in scored["matching"] if score["threshold"] == 0.5)
        self.facts["scores"] = {"f1_at_iou_0.5": half["f1"], "foreground": scored["foreground"]}


def _down(region: Region, factors: Triple) -> Region:
    """The voxels of the next level that a region has a part in."""
    z0, y0, x0 = (a // f for a, f in zip(region.start, factors, strict=True))
    z1, y1, x1 = (ceil_div(b, f) for b, f in zip(region.stop, factors, strict=True))
    return Region((z0, y0, x0), (z1, y1, x1))
