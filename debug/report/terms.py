"""What the report's words mean: shown on the page, so that nobody has to look elsewhere."""

from __future__ import annotations

TERMS = {
    "score": "The detector's calibrated log-likelihood ratio (natural logarithm). Above 0 speaks for generated. +2.3"
    " means: what was seen is ten times likelier in a generated clip.",
    "accuracy": "Share of clips whose verdict (the sign of the score) is right.",
    "source": "Where clips come from: one generator, or one collection of recordings. Every source counts the same,"
    " however many clips it has.",
    "family": "Sources that share a base model or recordings. A family is never split between training and test.",
    "balanced accuracy": "Mean of two means: accuracy over the generated sources and over the other class's sources."
    " Chance gives 0.5.",
    "interval": "Where the figure would lie with other sources of the same kind, 19 times out of 20. Bootstrap over"
    " sources, with one source that is always right and one that is always wrong added to each class.",
    "ROC AUC": "Chance that a generated clip gets a higher score than one of the other class. It does not depend on"
    " the threshold.",
    "best threshold": "The threshold that would have been best on these very clips: a bound, not a promise.",
    "Cllr": "Cost of the scores as probabilities, in bits: 0 is perfect, 1 says nothing. The part that the ranking"
    " alone costs is told apart; the rest is calibration.",
    "operation, severity": "What was done to a copy of a clip before it was scored, and how strongly (1 to 3).",
    "shortcut": "A property of the file, such as its resolution, that tells the classes apart in this set by accident."
    " A detector that follows it fails elsewhere.",
    "rank correlation": "Spearman's: +1 if the score always rises with the number, 0 if they have nothing in common.",
    "no score": "The file could not be read. It keeps a valid verdict, which is right half of the time.",
}
