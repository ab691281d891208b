"""Paper tables and the report."""


localrules:
    write_tables,
    write_report,


rule write_tables:
    input:
        script=source("workflow_scripts/write_tables.py"),
        scores=collect_scores,
        code=code_of("write_tables"),
    output:
        csv="results/tables/scores.csv",
        markdown="results/tables/scores.md",
        latex="results/tables/scores.tex",
    log:
        "logs/write_tables.log",
    shell:
        "{PYTHON} {input.script} --scores {input.scores} --output {output} > {log} 2>&1"


rule write_report:
    input:
        script=source("workflow_scripts/write_report.py"),
        tables=collect_tables,
        scores=collect_scores,
        code=code_of("write_report"),
    output:
        "results/report.html",
    log:
        "logs/write_report.log",
    shell:
        "{PYTHON} {input.script} --output {output} > {log} 2>&1"


rule tables:
    input:
        collect_tables,


rule report:
    input:
        collect_report,
