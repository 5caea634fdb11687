"""Evidence: what an evaluation has assessed and what not, in the words in which reviewers ask for it."""

from medrobust.results.evidence.made_of import EVIDENCE, evidence, evidence_shown, write_evidence

__all__ = ["EVIDENCE", "evidence", "evidence_shown", "write_evidence"]
