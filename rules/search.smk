"""Hyper-parameter search: one rule on this host whose trials submitit runs, here or as job arrays on the cluster."""


localrules:
    search,
    write_search_config,
    run_search,


rule write_search_config:
    output:
        "results/{experiment}/config/search.yaml",
    log:
        "logs/write_search_config/{experiment}.log",
    params:
        text=lambda wildcards: CATALOGUE.search_text(wildcards.experiment),
    shell:
        "printf %s {params.text:q} > {output}.part 2> {log} && mv {output}.part {output} 2>> {log}"


# memory, time and cores are those of one trial; a trial that runs out of time is queued again and goes on
rule run_search:
    input:
        script=source("workflow_scripts/search.py"),
        config="results/{experiment}/config/search.yaml",
        recordings=ancient(dataset_files("h5")),
        stimuli=ancient(shared_stimuli),
        digests=dataset_files("sha256"),
    output:
        trials="results/{experiment}/search/trials.csv",
        best="results/{experiment}/search/best.yaml",
        history=multiext("results/{experiment}/search/history", ".png", ".pdf", ".txt"),
        importance=multiext("results/{experiment}/search/importance", ".png", ".pdf", ".txt"),
    log:
        "logs/run_search/{experiment}.log",
    threads: trials_at_once
    resources:
        mem_mb=lambda wildcards, attempt: trials_at_once(wildcards) * growing(4000)(wildcards, attempt),
        runtime=growing(120),
        trial_cpus=1,
    params:
        code=code_of("search", "train"),
        jobs=trial_jobs,
    shell:
        "attempt {log} python {input.script} --experiment {wildcards.experiment} --config {input.config} "
        "--recordings {input.recordings} --jobs {params.jobs:q} --output {output.trials}"


rule search:
    input:
        collect_searches,
