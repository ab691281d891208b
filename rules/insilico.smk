"""In-silico experiments on the ensemble: receptive fields, and analyses of configs/insilico/ in shares of neurons."""


localrules:
    write_analysis_config,
    draw_analysis,
    compare_members,
    compare_with_truth,


wildcard_constraints:
    analysis="|".join(CATALOGUE.known_analyses) or "-",
    shard=r"\d+",


rule compute_receptive_fields:
    input:
        script=source("workflow_scripts/compute_receptive_fields.py"),
        config="results/{experiment}/config/insilico.yaml",
        models=ancient(member_files("model.ckpt")),
        model_digests=member_files("model.sha256"),
        recordings=ancient(dataset_files("h5")),
        stimuli=ancient(shared_stimuli),
        digests=dataset_files("sha256"),
    output:
        fields="results/{experiment}/receptive_fields.h5",
        digest="results/{experiment}/receptive_fields.sha256",
        table="results/{experiment}/receptive_fields.csv",
    log:
        "logs/compute_receptive_fields/{experiment}.log",
    benchmark:
        "logs/compute_receptive_fields/{experiment}.tsv"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        code=code_of("compute_receptive_fields", "train"),
    shell:
        "attempt {log} python {input.script} --config {input.config} --models {input.models} "
        "--recordings {input.recordings} --output {output.fields} --table {output.table}"


rule write_analysis_config:
    output:
        "results/{experiment}/config/insilico/{analysis}.yaml",
    log:
        "logs/write_analysis_config/{experiment}/{analysis}.log",
    params:
        text=lambda wildcards: CATALOGUE.analysis_text(wildcards.experiment, wildcards.analysis),
    shell:
        "printf %s {params.text:q} > {output}.part 2> {log} && mv {output}.part {output} 2>> {log}"


# a shard has every n-th neuron of each session, so that how many there are need not be known before
rule run_analysis:
    input:
        script=source("workflow_scripts/run_analysis.py"),
        config="results/{experiment}/config/insilico/{analysis}.yaml",
        models=ancient(member_files("model.ckpt")),
        model_digests=member_files("model.sha256"),
        recordings=ancient(dataset_files("h5")),
        stimuli=ancient(shared_stimuli),
        digests=dataset_files("sha256"),
    output:
        result="results/{experiment}/insilico/{analysis}/shard{shard}.h5",
        digest="results/{experiment}/insilico/{analysis}/shard{shard}.sha256",
    log:
        "logs/run_analysis/{experiment}/{analysis}/shard{shard}.log",
    benchmark:
        "logs/run_analysis/{experiment}/{analysis}/shard{shard}.tsv"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        code=code_of("run_analysis", "train", "analysis", without=FIGURES),
        shards=lambda wildcards: CATALOGUE.shards(wildcards.analysis),
    shell:
        "attempt {log} python {input.script} --config {input.config} --models {input.models} "
        "--recordings {input.recordings} --shard {wildcards.shard} --shards {params.shards} --output {output.result}"


rule join_analysis:
    input:
        script=source("workflow_scripts/join_analysis.py"),
        config="results/{experiment}/config/insilico/{analysis}.yaml",
        shards=ancient(shard_files("h5")),
        shard_digests=shard_files("sha256"),
    output:
        result="results/{experiment}/{analysis}.h5",
        digest="results/{experiment}/{analysis}.sha256",
        table="results/{experiment}/{analysis}.csv",
    log:
        "logs/join_analysis/{experiment}/{analysis}.log",
    benchmark:
        "logs/join_analysis/{experiment}/{analysis}.tsv"
    group:
        "join_analysis_{experiment}"
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
        turn=1,
    params:
        code=code_of("join_analysis", "analysis", without=FIGURES),
    shell:
        "attempt {log} python {input.script} --config {input.config} --shards {input.shards} "
        "--output {output.result} --table {output.table}"


rule draw_analysis:
    input:
        script=source("workflow_scripts/draw_analysis.py"),
        config="results/{experiment}/config/insilico/{analysis}.yaml",
        result=ancient("results/{experiment}/{analysis}.h5"),
        digest="results/{experiment}/{analysis}.sha256",
    output:
        directory("results/{experiment}/insilico/{analysis}/figures"),
    log:
        "logs/draw_analysis/{experiment}/{analysis}.log",
    params:
        code=code_of("draw_analysis", "analysis"),
    shell:
        "attempt {log} python {input.script} --config {input.config} --result {input.result} --output {output}"


rule compare_members:
    input:
        script=source("workflow_scripts/compare_members.py"),
        config="results/{experiment}/config/insilico/seed_consistency.yaml",
        results=ancient(result_files("h5")),
        digests=result_files("sha256"),
    output:
        directory("results/{experiment}/insilico/consistency"),
    log:
        "logs/compare_members/{experiment}.log",
    params:
        code=code_of("compare_members"),
        members=lambda wildcards: len(CATALOGUE.members(wildcards.experiment)),
    shell:
        "attempt {log} python {input.script} --config {input.config} --results {input.results} "
        "--members {params.members} --output {output}"


rule compare_with_truth:
    input:
        script=source("workflow_scripts/compare_with_truth.py"),
        results=ancient(result_files("h5")),
        digests=result_files("sha256"),
        recordings=ancient(dataset_files("h5")),
        stimuli=ancient(shared_stimuli),
        recording_digests=dataset_files("sha256"),
    output:
        directory("results/{experiment}/insilico/truth"),
    log:
        "logs/compare_with_truth/{experiment}.log",
    params:
        code=code_of("compare_with_truth"),
    shell:
        "attempt {log} python {input.script} --results {input.results} --recordings {input.recordings} "
        "--output {output}"


rule insilico:
    input:
        collect_insilico,
