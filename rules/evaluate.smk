"""Predictions of every member; from them one table of scores per experiment, and competition files."""


localrules:
    scores,
    submissions,


rule predict_member:
    input:
        script=source("workflow_scripts/predict.py"),
        model=ancient("results/{experiment}/fold{fold}/seed{seed}/model.ckpt"),
        model_digest="results/{experiment}/fold{fold}/seed{seed}/model.sha256",
        recordings=ancient(dataset_files("h5")),
        stimuli=ancient(shared_stimuli),
        digests=dataset_files("sha256"),
    output:
        predictions="results/{experiment}/fold{fold}/seed{seed}/predictions.h5",
        digest="results/{experiment}/fold{fold}/seed{seed}/predictions.sha256",
    log:
        "logs/predict_member/{experiment}/fold{fold}/seed{seed}.log",
    benchmark:
        "logs/predict_member/{experiment}/fold{fold}/seed{seed}.tsv"
    group:
        "predict_member_{experiment}"
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
        turn=1,
    params:
        code=code_of("predict", "train"),
    shell:
        "attempt {log} python {input.script} --experiment {wildcards.experiment} --model {input.model} "
        "--recordings {input.recordings} --memory-mb {resources.mem_mb} --output {output.predictions}"


rule score_experiment:
    input:
        script=source("workflow_scripts/score.py"),
        config="results/{experiment}/config/evaluate.yaml",
        predictions=ancient(member_files("predictions.h5")),
        prediction_digests=member_files("predictions.sha256"),
        recordings=ancient(dataset_files("h5")),
        stimuli=ancient(shared_stimuli),
        digests=dataset_files("sha256"),
    output:
        scores="results/{experiment}/scores.csv",
    log:
        "logs/score_experiment/{experiment}.log",
    benchmark:
        "logs/score_experiment/{experiment}.tsv"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        code=code_of("score"),
    shell:
        "attempt {log} python {input.script} --config {input.config} --predictions {input.predictions} "
        "--recordings {input.recordings} --memory-mb {resources.mem_mb} --output {output.scores}"


rule scores:
    input:
        collect_experiments("scores.csv"),


# which sessions and tiers are asked for stands in the recordings, so the output is a folder; files.csv in it lists them
rule write_submission:
    input:
        script=source("workflow_scripts/write_submission.py"),
        predictions=ancient(member_files("predictions.h5")),
        prediction_digests=member_files("predictions.sha256"),
        recordings=ancient(dataset_files("h5")),
        stimuli=ancient(shared_stimuli),
        digests=dataset_files("sha256"),
    output:
        directory("results/{experiment}/submission"),
    log:
        "logs/write_submission/{experiment}.log",
    benchmark:
        "logs/write_submission/{experiment}.tsv"
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        code=code_of("write_submission"),
    shell:
        "attempt {log} python {input.script} --predictions {input.predictions} --recordings {input.recordings} "
        "--output {output}"


rule submissions:
    input:
        collect_experiments("submission"),
