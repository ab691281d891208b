"""In-silico experiments on the ensemble."""


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


rule insilico:
    input:
        collect_insilico,
