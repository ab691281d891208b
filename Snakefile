"""Recordings in; trained members, honest scores, receptive fields, paper tables and a report out."""

from snakemake.utils import min_version

min_version("9.27")


configfile: f"{workflow.basedir}/configs/workflow.yaml"


# used only with `--sdm apptainer`; deploy/coread.def says how the image is built from requirements.lock
container: "deploy/coread.sif"


include: "rules/common.smk"
include: "rules/campaign.smk"
include: "rules/polling.smk"


wildcard_constraints:
    experiment="|".join(CATALOGUE.names),
    stage="|".join(STAGES),
    dataset=r"[\w-]+",
    session=SESSION_NAME,
    fold=r"\d+",
    seed=r"\d+",


localrules:
    all,
    data,
    models,
    insilico,


include: "rules/data.smk"
include: "rules/train.smk"
include: "rules/evaluate.smk"
include: "rules/insilico.smk"
include: "rules/search.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        rules.scores.input,
        rules.insilico.input,
        rules.tables.input,
        rules.report.input,
