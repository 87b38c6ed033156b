"""What is enough of an Indexed Job's successes: the rules of its successPolicy, of which any one suffices.

succeededIndexes 0,2-4                      all of these
succeededIndexes 0,2-4, succeededCount 2    two of these
succeededCount 2                            any two
"""

from raykube.controllers.core.completions import Indexes
from raykube.controllers.core.job_pods import completions_of
from raykube.controllers.core.plan import Obj


def met(job: Obj, completed: Indexes) -> str:
    """The message of the condition SuccessCriteriaMet; "" while no rule is met, or there is none."""
    if not len(completed):
        return ""
    for number, rule in enumerate((job["spec"].get("successPolicy") or {}).get("rules") or ()):
        count, text = rule.get("succeededCount"), rule.get("succeededIndexes")
        if text is None:
            enough = count is not None and len(completed) >= int(count)
        else:
            asked = Indexes.parse(text, completions_of(job) or 0)
            enough = completed.common(asked) >= (len(asked) if count is None else int(count))
        if enough:
            return f"Matched rules at index {number}"
    return ""
