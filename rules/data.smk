"""Recordings: from a simulation or raw files to results/data/<dataset>/<session>.h5."""


localrules:
    write_config,
    write_data_config,
    write_download_config,
    download_dataset,
    tabulate_quality,


# the composed config is an artefact: every other rule reads this file, so only what is in it can re-run a stage
rule write_config:
    output:
        "results/{experiment}/config/{stage}.yaml",
    log:
        "logs/write_config/{experiment}/{stage}.log",
    params:
        text=lambda wildcards: CATALOGUE.stage_text(wildcards.experiment, wildcards.stage),
    shell:
        "printf %s {params.text:q} > {output}.part 2> {log} && mv {output}.part {output} 2>> {log}"


rule write_data_config:
    output:
        "results/data/{dataset}/config.yaml",
    log:
        "logs/write_data_config/{dataset}.log",
    params:
        text=lambda wildcards: CATALOGUE.data_text(wildcards.dataset),
    shell:
        "printf %s {params.text:q} > {output}.part 2> {log} && mv {output}.part {output} 2>> {log}"


rule write_download_config:
    output:
        "results/downloads/{dataset}.yaml",
    log:
        "logs/write_download_config/{dataset}.log",
    params:
        text=lambda wildcards: CATALOGUE.registry_text(wildcards.dataset),
    shell:
        "printf %s {params.text:q} > {output}.part 2> {log} && mv {output}.part {output} 2>> {log}"


# The only rule that may touch the network, so it runs on this host. The files themselves, in results/downloads/{dataset}/,
# are no output: Snakemake would delete them when a download fails, and it shall go on.
rule download_dataset:
    input:
        script=source("workflow_scripts/download.py"),
        config="results/downloads/{dataset}.yaml",
    output:
        "results/downloads/{dataset}.json",
    log:
        "logs/download_dataset/{dataset}.log",
    shell:
        "attempt {log} python {input.script} --config {input.config} --output {output}"


# params.source stands for the contents of raw files: another folder with equal files re-runs nothing
rule build_stimuli:
    input:
        script=source("workflow_scripts/build_stimuli.py"),
        config="results/data/{dataset}/config.yaml",
        downloaded=downloaded_files,
    output:
        stimuli="results/data/{dataset}/stimuli.h5",
        digest="results/data/{dataset}/stimuli.sha256",
        source="results/data/{dataset}/stimuli.source.json",
    log:
        "logs/build_stimuli/{dataset}.log",
    benchmark:
        "logs/build_stimuli/{dataset}.tsv"
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        code=code_of("build_stimuli", "data"),
        source=lambda wildcards: CATALOGUE.source_digest(wildcards.dataset, None),
    shell:
        'attempt {log} python {input.script} --config {input.config} --data-dirs "$COREAD_DATA_DIRS" '
        "--downloaded {input.downloaded} --output {output.stimuli}"


rule build_recording:
    input:
        script=source("workflow_scripts/build_recording.py"),
        config="results/data/{dataset}/config.yaml",
        stimuli=ancient("results/data/{dataset}/stimuli.h5"),
        stimuli_digest="results/data/{dataset}/stimuli.sha256",
        downloaded=downloaded_files,
    output:
        recording="results/data/{dataset}/{session}.h5",
        digest="results/data/{dataset}/{session}.sha256",
        source="results/data/{dataset}/{session}.source.json",
    log:
        "logs/build_recording/{dataset}/{session}.log",
    benchmark:
        "logs/build_recording/{dataset}/{session}.tsv"
    group:
        "build_recording_{dataset}"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
        turn=1,
    params:
        code=code_of("build_recording", "data"),
        source=lambda wildcards: CATALOGUE.source_digest(wildcards.dataset, wildcards.session),
    shell:
        'attempt {log} python {input.script} --config {input.config} --data-dirs "$COREAD_DATA_DIRS" '
        "--downloaded {input.downloaded} --session {wildcards.session} --stimuli {input.stimuli} --output {output.recording}"


rule tabulate_quality:
    input:
        script=source("workflow_scripts/tabulate_quality.py"),
        recordings=ancient(lambda wildcards: _dataset_files(wildcards.dataset, "h5")),
        digests=lambda wildcards: _dataset_files(wildcards.dataset, "sha256"),
    output:
        "results/data/{dataset}/quality.csv",
    log:
        "logs/tabulate_quality/{dataset}.log",
    params:
        code=code_of("tabulate_quality"),
    shell:
        "attempt {log} python {input.script} --recordings {input.recordings} --output {output}"


rule data:
    input:
        collect_data("h5"),
        collect_quality,
