"""Figures, paper tables and the report."""


localrules:
    draw_figures,
    write_tables,
    write_comparison,
    write_report,
    tables,
    report,


rule draw_figures:
    input:
        script=source("workflow_scripts/draw_figures.py"),
        scores="results/{experiment}/scores.csv",
        histories=member_files("history.csv"),
        predictions=ancient(member_files("predictions.h5")),
        prediction_digests=member_files("predictions.sha256"),
        models=ancient(member_files("model.ckpt")),
        model_digests=member_files("model.sha256"),
        recordings=ancient(dataset_files("h5")),
        digests=dataset_files("sha256"),
        fields=ancient(analysis_files("receptive_fields", "h5")),
        field_digests=analysis_files("receptive_fields", "sha256"),
    output:
        directory("results/{experiment}/figures"),
    log:
        "logs/draw_figures/{experiment}.log",
    resources:
        mem_mb=growing(4000),
    params:
        code=code_of("draw_figures", "train"),
    shell:
        "attempt {log} python {input.script} --scores {input.scores} --histories {input.histories} "
        "--predictions {input.predictions} --models {input.models} --recordings {input.recordings} "
        "--fields {input.fields} --memory-mb {resources.mem_mb} --output {output}"


rule write_tables:
    input:
        script=source("workflow_scripts/write_tables.py"),
        configs=collect_experiments("config/evaluate.yaml"),
        scores=collect_experiments("scores.csv"),
    output:
        scores=multiext("results/tables/scores", ".csv", ".md", ".tex"),
        sessions=multiext("results/tables/sessions", ".csv", ".md", ".tex"),
        differences=multiext("results/tables/differences", ".csv", ".md", ".tex"),
    log:
        "logs/write_tables.log",
    params:
        code=code_of("write_tables"),
    shell:
        "attempt {log} python {input.script} --configs {input.configs} --scores {input.scores} --output results/tables"


rule write_comparison:
    input:
        script=source("workflow_scripts/write_comparison.py"),
        configs=compared_files("config/evaluate.yaml"),
        scores=compared_files("scores.csv"),
    output:
        multiext("results/tables/comparison_{comparison}", ".csv", ".md", ".tex"),
    log:
        "logs/write_comparison/{comparison}.log",
    wildcard_constraints:
        comparison="|".join(CATALOGUE.comparisons) or "-",
    params:
        code=code_of("write_comparison"),
        comparison=comparison_text,
    shell:
        "attempt {log} python {input.script} --name {wildcards.comparison} --comparison {params.comparison:q} "
        "--configs {input.configs} --scores {input.scores} --output results/tables"


rule write_report:
    input:
        script=source("workflow_scripts/write_report.py"),
        configs=collect_configs,
        tables=rules.write_tables.output,
        comparisons=collect_comparisons(".csv"),
        scores=collect_experiments("scores.csv"),
        insilico=collect_insilico,
        figures=collect_experiments("figures"),
        models=ancient(collect_members("model.ckpt")),
        model_digests=collect_members("model.sha256"),
        recordings=ancient(collect_data("h5")),
        digests=collect_data("sha256"),
        quality=collect_quality,
    output:
        "results/report.html",
    log:
        "logs/write_report.log",
    params:
        code=code_of("write_report"),
        files=report_files,
    shell:
        "attempt {log} python {input.script} --files {params.files:q} --recordings {input.recordings} "
        "--logs logs --output {output}"


rule tables:
    input:
        rules.write_tables.output,
        collect_comparisons(".csv"),


rule report:
    input:
        rules.write_report.output,
