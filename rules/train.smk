"""Members: one trained model per experiment, fold and seed, and what the members of a fold start from."""


localrules:
    unpack_member,


# responses of training bins only; one file for all seeds
rule compute_sta:
    input:
        script=source("workflow_scripts/compute_sta.py"),
        config="results/{experiment}/config/sta.yaml",
        recording=ancient(dataset_file("h5")),
        stimuli=ancient(shared_stimuli),
        digest=dataset_file("sha256"),
    output:
        sta="results/{experiment}/fold{fold}/sta/{session}.h5",
        digest="results/{experiment}/fold{fold}/sta/{session}.sha256",
    log:
        "logs/compute_sta/{experiment}/fold{fold}/{session}.log",
    benchmark:
        "logs/compute_sta/{experiment}/fold{fold}/{session}.tsv"
    group:
        "compute_sta_{experiment}"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(10),
        turn=1,
    params:
        code=code_of("compute_sta", "sta"),
    shell:
        "attempt {log} python {input.script} --config {input.config} --recording {input.recording} "
        "--fold {wildcards.fold} --memory-mb {resources.mem_mb} --output {output.sta}"


# recordings are large, so Snakemake would compare their times: they are ancient() and their digests decide
rule train_member:
    input:
        script=source("workflow_scripts/train.py"),
        config="results/{experiment}/config/train.yaml",
        recordings=ancient(dataset_files("h5")),
        stimuli=ancient(shared_stimuli),
        digests=dataset_files("sha256"),
        stas=ancient(sta_files("h5")),
        sta_digests=sta_files("sha256"),
    output:
        model="results/{experiment}/fold{fold}/seed{seed}/model.ckpt",
        digest="results/{experiment}/fold{fold}/seed{seed}/model.sha256",
        history="results/{experiment}/fold{fold}/seed{seed}/history.csv",
    log:
        "logs/train_member/{experiment}/fold{fold}/seed{seed}.log",
    benchmark:
        "logs/train_member/{experiment}/fold{fold}/seed{seed}.tsv"
    wildcard_constraints:
        experiment=experiments(packed=False),
    threads: 1
    resources:
        mem_mb=growing_per_process(4000),
        runtime=growing(120),
        # one task for each process, on one node unless the profile says otherwise; how many there are decides numbers
        # and is a setting of the experiment. tasks_per_gpu=0: the plugin would ask for as many tasks on every GPU
        tasks=for_ranks(),
        nodes=for_ranks(1),
        mpi=for_ranks("srun"),
        tasks_per_gpu=for_ranks(0),
    params:
        code=code_of("train", "train"),
        stas=sta_option,
    shell:
        "attempt {log} python {input.script} --config {input.config} "
        "--recordings {input.recordings} {params.stas} "
        "--fold {wildcards.fold} --seed {wildcards.seed} --memory-mb {resources.mem_mb} "
        "--log-dir logs/train_member/{wildcards.experiment}/fold{wildcards.fold}/seed{wildcards.seed} "
        "--output {output.model}"


# members that train together (members_per_job): steps of one are steps of all, in one process on one device
rule train_members:
    input:
        script=source("workflow_scripts/train_members.py"),
        config="results/{experiment}/config/train.yaml",
        recordings=ancient(dataset_files("h5")),
        stimuli=ancient(shared_stimuli),
        digests=dataset_files("sha256"),
        stas=ancient(pack_sta_files("h5")),
        sta_digests=pack_sta_files("sha256"),
    output:
        pack="results/{experiment}/packs/pack{pack}.json",
    log:
        "logs/train_members/{experiment}/pack{pack}.log",
    benchmark:
        "logs/train_members/{experiment}/pack{pack}.tsv"
    wildcard_constraints:
        experiment=experiments(packed=True),
    threads: 1
    resources:
        # data are read once; every member adds its weights, their optimiser and its share of a step, and on a CPU takes turns
        mem_mb=growing_per_member(4000, 1000),
        runtime=growing_per_member(120, 120),
    params:
        members=pack_members,
        code=code_of("train_members", "train"),
        stas=sta_option,
    shell:
        "attempt {log} python {input.script} --config {input.config} "
        "--recordings {input.recordings} {params.stas} "
        "--members {params.members} --memory-mb {resources.mem_mb} --log-dir logs/train_members/{wildcards.experiment} "
        "--results results/{wildcards.experiment} --output {output.pack}"


rule unpack_member:
    input:
        script=source("workflow_scripts/unpack_member.py"),
        pack=pack_file,
    output:
        model="results/{experiment}/fold{fold}/seed{seed}/model.ckpt",
        digest="results/{experiment}/fold{fold}/seed{seed}/model.sha256",
        history="results/{experiment}/fold{fold}/seed{seed}/history.csv",
    log:
        "logs/unpack_member/{experiment}/fold{fold}/seed{seed}.log",
    wildcard_constraints:
        experiment=experiments(packed=True),
    shell:
        "attempt {log} python {input.script} --pack {input.pack} --fold {wildcards.fold} --seed {wildcards.seed} "
        "--outputs {output}"


rule models:
    input:
        collect_members("model.ckpt"),
