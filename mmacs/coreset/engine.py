"""Rounds and draws of a run: what to score, what the scores are worth, which images are next."""

import time
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch
from mmengine.dist import all_gather_object, broadcast_object_list, get_world_size
from scipy.sparse import csr_matrix
from scipy.stats import spearmanr
from torch import Tensor, nn

from mmacs.coreset.scoring.scorers import Scorer
from mmacs.coreset.scoring.scoring_pass import ReadTeacherOutputs, ScoringPass
from mmacs.coreset.scoring.training_scores import MIN_PAIRS, Alignment, align
from mmacs.coreset.selection.importance import Importance
from mmacs.coreset.selection.normalisation import MAX_STRATA, count_strata
from mmacs.coreset.selection.policy import Policy
from mmacs.coreset.selection.selectors import Selection, digest, top_k
from mmacs.coreset.state import Ledger, scored_columns
from mmacs.utils.distributed import gather_rows
from mmacs.utils.errors import MmacsError


class CoresetEngine:
    """Scores images in rounds and draws coresets from what is known of them.

    Args:
        scoring (ScoringPass): How images are brought to the models.
        scorer (Scorer): The scorer.
        importance (Importance): How columns are mixed.
        policy (Policy): What chooses.
        harvest (bool): Whether training forwards give scores, see :meth:`harvested`.

    Attributes:
        ledger (Ledger): What is known of each image.
        rescore (float): Share of the images that a round after the first scores, stalest first, in [0, 1].
        noisy (np.ndarray): Images whose labels were made wrong on purpose, bool, shape (N,).
        beta (float): Weight of the error score in the current round.
        seed (int): Of all draws.
        data (str): Fingerprint of the images.
        selection (Selection): The current coreset, None before the first round.
    """

    def __init__(
        self,
        scoring: ScoringPass,
        scorer: Scorer,
        importance: Importance,
        policy: Policy,
        harvest: bool = False,
    ) -> None:
        self.scoring = scoring
        self.view = scoring.view
        self.scorer = scorer
        self.mixture = importance
        self.policy = policy
        self.rescore = 1.0
        self.harvest = harvest
        trimming = ['teacher_error', 'ds'] if policy.trim else []
        self.ledger = Ledger(len(self.view), list(dict.fromkeys([*importance.columns, *trimming])))
        self.columns = scored_columns(list(self.ledger.scores))
        self.training_columns = [c for c in self.columns if harvest and c in scorer.training_columns]
        noise = (self.view.info(position).get('noise') for position in range(len(self.view)))
        self.noisy = np.fromiter(map(bool, noise), dtype=bool, count=len(self.view))
        self.data = self.view.fingerprint
        self.trusts_harvest = True  # whether the last harvested scores were sound
        self.beta = 0.0
        self.seed = 0
        self.selection: Optional[Selection] = None

    @property
    def needs_teacher(self) -> bool:
        """Whether any column needs the teacher's outputs."""
        return bool(self.scorer.teacher_columns & set(self.columns))

    # ---------------------------------------------------------------- rounds
    def dry_run(self, size: int) -> Selection:
        """Choose by made-up scores, so that what cannot be chosen is refused before anything is scored.

        Args:
            size (int): Data set indices to choose.
        """
        ledger = Ledger(len(self.view), list(self.ledger.scores))
        for scores in ledger.scores.values():
            scores[:] = 0
        made_up = np.linspace(0, 1, len(self.view))
        rng = np.random.default_rng(self.seed)
        return self.policy.choose(made_up, size, rng, ledger, self.view.positions, self._labels())

    def measure(
        self,
        model: nn.Module,
        teacher: Optional[nn.Module],
        teacher_outputs: Optional[ReadTeacherOutputs] = None,
        num_batches: int = 3,
    ) -> Tuple[float, float, float]:
        """What scoring costs, on a few images.

        Args:
            model (nn.Module): The quantized model.
            teacher (nn.Module, optional): The full-precision model, if a column needs it.
            teacher_outputs (Callable, optional): Reads the teacher's outputs, where they are known already.
            num_batches (int): Batches to time per process, after one that warms up.

        Returns:
            Tuple[float, float, float]: Seconds per image, of all processes together, for scoring by the quantized
            model, for the teacher's outputs, 0 where they are known, and for a forward pass of the quantized model
            alone; the same in all processes.
        """
        batch = self.scoring.batch_size * get_world_size()
        warm, timed = np.split(np.arange(min(len(self.view), (1 + num_batches) * batch)), [min(batch, len(self.view))])
        timed = timed if len(timed) else warm
        seconds = []
        for positions in (warm, timed):
            rows = _Rows()
            start = time.perf_counter()
            if teacher is not None and teacher_outputs is None:
                self.scoring.teacher_outputs(self.scorer, teacher, self.columns, positions, rows.write)
            middle = time.perf_counter()
            self.scoring.scores(self.scorer, model, positions, self.columns, teacher_outputs or rows.read)
            scored = time.perf_counter()
            self.scoring.scores(self.scorer, model, positions, [], None)
            spans = (scored - middle, middle - start, time.perf_counter() - scored)
            seconds = [span / len(positions) for span in spans]
        broadcast_object_list(seconds)
        return tuple(seconds)

    def hold_round(
        self, model: nn.Module, beta: float, teacher_outputs: Optional[ReadTeacherOutputs]
    ) -> Dict[str, float]:
        """Score what is due.

        Args:
            model (nn.Module): The quantized model.
            beta (float): Weight of the error score from now on.
            teacher_outputs (Callable, optional): Reads the teacher's outputs.

        Returns:
            Dict[str, float]: Facts for the log: ``scored``, the mean of each column, and for harvested columns
            ``harvest_<column>``, the rank correlation with exact scores.
        """
        self.beta = beta
        positions = self._due()
        self.ledger.round += 1
        scores = self.scoring.scores(self.scorer, model, positions, self.columns, teacher_outputs)
        self.ledger.record(positions, scores)
        facts: Dict[str, float] = {'scored': len(positions)}
        for column, alignment in self._merge_harvest(positions, scores).items():
            if alignment.pairs:
                facts[f'harvest_{column}'] = alignment.correlation
        return {**facts, **{name: float(np.mean(self.ledger.scores[name])) for name in self.ledger.scores}}

    def _due(self) -> np.ndarray:
        """Positions to score in this round."""
        fresh = np.zeros(len(self.view), dtype=bool)
        if self.ledger.round < 0:
            return self.ledger.stalest(1.0, fresh)
        checked = np.empty(0, dtype=np.int64)
        if self.training_columns == self.columns:
            trained = np.flatnonzero(self._have_harvest())
            fresh[trained] = self.trusts_harvest  # if so, nothing of a trained image has to be computed again
            if self.rescore > 0:  # some are scored nevertheless, for harvested scores to be aligned with
                rng = np.random.default_rng([self.seed, self.ledger.round + 1])
                count = min(len(trained), max(2 * MIN_PAIRS, len(trained) // 20))
                checked = rng.choice(trained, count, replace=False)
        return np.union1d(self.ledger.stalest(self.rescore, fresh), checked)

    def _have_harvest(self) -> np.ndarray:
        """Images that training forwards gave scores since the last round, bool, shape (M,)."""
        return np.all([np.isfinite(self.ledger.harvested[column]) for column in self.training_columns], axis=0)

    def _merge_harvest(self, positions: np.ndarray, scores: Dict[str, np.ndarray]) -> Dict[str, Alignment]:
        """Put aligned harvested scores where no exact ones were taken in this round."""
        found, merged = {}, {}
        if self.training_columns and self.ledger.round > 0 and (have := self._have_harvest()).any():
            both, others = have[positions], np.setdiff1d(np.flatnonzero(have), positions)
            for column in self.training_columns:
                harvested = self.ledger.harvested[column]
                alignment = found[column] = align(harvested[positions[both]], scores[column][both])
                if self.rescore == 0:  # nothing to align with: taken as they are, as InfoBatch does
                    merged[column] = harvested[others]
                elif alignment.sound:
                    merged[column] = alignment.apply(harvested[others])
            self.ledger.record(others, merged)
            self.trusts_harvest = len(merged) == len(found)
        for harvested in self.ledger.harvested.values():
            harvested[:] = np.nan
        return found

    def harvested(self, positions: np.ndarray, outputs: Any, data_samples: List[Any], model: nn.Module) -> None:
        """Score a training batch from what its forward gave.

        Args:
            positions (np.ndarray): The batch's images, shape (B,).
            outputs (Any): What the scorer's hooked module gave, detached.
            data_samples (list): The batch's data samples.
            model (nn.Module): The quantized model.
        """
        with torch.no_grad():
            scores = self.scorer.score(model, outputs, data_samples, {}, self.training_columns)
        found = torch.stack([scores[name].float().cpu() for name in self.training_columns], dim=1)
        # gathered, so that every process knows what each checkpoint needs
        where, found = gather_rows(torch.from_numpy(positions)), gather_rows(found)
        for name, values in zip(self.training_columns, found.T.numpy()):
            self.ledger.harvested[name][where.numpy()] = values

    def compare_proxy(
        self, model: nn.Module, teacher: Optional[nn.Module], share: float, num_images: int = 256
    ) -> Dict[str, float]:
        """How the scores of this round, taken at less than full cost, relate to exact ones.

        Args:
            model (nn.Module): The quantized model.
            teacher (nn.Module, optional): The full-precision model, if a column needs it.
            share (float): S.
            num_images (int): Images to compare.

        Returns:
            Dict[str, float]: Per column ``proxy_<column>``, Spearman's rank correlation, and ``proxy_overlap``,
            the share of their most important images that both have.
        """
        exact = ScoringPass(self.view, self.scoring.batch_size, self.scoring.num_workers)
        chosen = np.sort(np.random.default_rng(self.seed).permutation(len(self.view))[:num_images])
        rows = _Rows()
        if teacher is not None:
            exact.teacher_outputs(self.scorer, teacher, self.columns, chosen, rows.write)
        slow = exact.scores(self.scorer, model, chosen, self.columns, rows.read)
        fast = {name: self.ledger.scores[name][chosen] for name in self.columns}
        facts = {}
        for name in self.columns:
            constant = np.ptp(fast[name]) == 0 or np.ptp(slow[name]) == 0
            facts[f'proxy_{name}'] = 0.0 if constant else float(spearmanr(fast[name], slow[name])[0])
        if set(self.mixture.columns) <= set(self.columns):
            size = max(1, round(share * len(chosen)))
            groups = self._groups()
            groups = None if groups is None else groups[chosen]
            tops = [top_k(self.mixture(columns, self.beta, groups), size) for columns in (fast, slow)]
            facts['proxy_overlap'] = len(np.intersect1d(*tops)) / size
        return facts

    def importance(self) -> np.ndarray:
        """Importance of each image by what is known of it, float64, shape (M,)."""
        scores = {name: self.ledger.scores[name] for name in self.mixture.columns}
        return self.mixture(scores, self.beta, self._groups())

    def _groups(self) -> Optional[np.ndarray]:
        """Images whose scores are brought to scale among themselves, int64, shape (M,); None: all."""
        strata = count_strata(self.view.object_counts) if self.mixture.stratified else None
        ages = self.ledger.scored_at.astype(np.int64)
        if self.harvest or np.ptp(ages) == 0:
            return strata
        if strata is None:
            return ages
        groups = np.empty_like(ages)
        for age in np.unique(ages):
            own = ages == age
            groups[own] = age * MAX_STRATA + count_strata(self.view.object_counts[own])
        return groups

    # ---------------------------------------------------------------- draws
    def draw(self, size: int, number: int) -> Selection:
        """Choose a coreset from the current scores, the same in all processes.

        Args:
            size (int): Data set indices to choose.
            number (int): Number of the epoch or pass, which seeds what is random.

        Raises:
            MmacsError: If processes chose different coresets.
        """
        rng = np.random.default_rng([self.seed, number])
        self.selection = self.policy.choose(
            self.importance(), size, rng, self.ledger, self.view.positions, self._labels()
        )
        digests = all_gather_object(digest(self.selection.indices))
        if len(set(digests)) > 1:
            raise MmacsError(f'processes chose different coresets: {digests}')
        self.ledger.trained(self.view.positions[self.selection.indices])
        return self.selection

    def _labels(self) -> Optional[csr_matrix]:
        return self.view.labels if self.policy.needs_labels else None

    # ---------------------------------------------------------------- checkpoint
    def state_dict(self) -> Dict[str, Any]:
        """Tensors and plain values."""
        selection = {}
        if self.selection is not None:
            selection = {k: torch.from_numpy(v) for k, v in self.selection._asdict().items() if v is not None}
        return {
            'ledger': self.ledger.state_dict(),
            'beta': self.beta,
            'seed': self.seed,
            'trusts_harvest': self.trusts_harvest,
            'data': self.data,
            'images': len(self.view),
            **selection,
        }

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Take up the state of a run that is being resumed.

        Raises:
            MmacsError: If it is of another data set or other columns.
        """
        if state['images'] != len(self.view):
            raise MmacsError(
                f'cannot resume: the data set had {state["images"]} images when the checkpoint was written and now has '
                f'{len(self.view)}'
            )
        if state['data'] != self.data:
            raise MmacsError(
                'cannot resume: names, order or annotations of the training images are not those that they were when '
                'the checkpoint was written'
            )
        self.ledger.load_state_dict(state['ledger'])
        self.beta, self.seed, self.trusts_harvest = state['beta'], state['seed'], state['trusts_harvest']
        if 'indices' in state:
            probabilities = state.get('probabilities')
            self.selection = Selection(  # MMEngine loads checkpoints to the GPU
                state['indices'].cpu().numpy(), None if probabilities is None else probabilities.cpu().numpy()
            )


class _Rows:
    """The teacher's outputs of a few images in memory."""

    def __init__(self) -> None:
        self._rows: Dict[int, Dict[str, Tensor]] = {}

    def write(self, positions: np.ndarray, rows: Dict[str, Tensor]) -> None:
        for i, position in enumerate(positions.tolist()):
            self._rows[position] = {name: row[i] for name, row in rows.items()}

    def read(self, positions: np.ndarray) -> Dict[str, Tensor]:
        batch = [self._rows[position] for position in positions.tolist()]
        return {name: torch.stack([row[name] for row in batch]) for name in batch[0]}
