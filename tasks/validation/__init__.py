"""Validation: what a dataset is held to, tier by tier. Imports records and errors, no Prefect.

`contracts` are pandera schemas of the arrays, `checks` those of the images in tiers, `measure`
the statistics that they are about, `plausibility` what is told without a profile, `profiles` says
what images usually are like, `rules` turns failures into results. A result:

    CheckResult(tier="rows", name="duplicates", subject="x_train", severity="warning",
                rule="no image occurs again in its split", outcome="failed",
                received="2 of 60 images", rows=(21, 24), failing=2)
"""
