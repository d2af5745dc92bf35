import pytest

from trocar.core.config import preset_names
from trocar.errors import ConfigError
from trocar.slurm.executor import slurm_executor
from trocar.slurm.profile import Container, Profile, load_profile


def script(tmp_path, **fields):
    return slurm_executor(Profile(**fields), tmp_path, "pretrain").script().splitlines()


def test_one_task_per_gpu():
    assert Profile(nodes=3, gpus_per_node=4).ranks == 12
    assert Profile(nodes=2, tasks_per_node=3).ranks == 6
    assert Profile().ranks == 1
    assert Profile(nodes=3, gpus_per_node=4).single().ranks == 1
    assert Profile(nodes=3, gpus_per_node=4).single().gpus_per_node == 1


def test_every_profile_in_the_box_loads():
    names = [name.removeprefix("slurm/") for name in preset_names() if name.startswith("slurm/")]
    assert {"local", "gpu", "cpu"} <= set(names)
    for name in names:
        load_profile(name)


def test_a_profile_that_is_none_names_those_in_the_box():
    with pytest.raises(ConfigError, match=r"did you mean 'local'.*presets copy slurm/"):
        load_profile("locl")


def test_a_time_that_is_over_before_the_work_begins_is_refused():
    with pytest.raises(ConfigError, match="may ask it to save 180 s before the limit"):
        load_profile("cpu", ["time_min=3"])
    assert load_profile("cpu", ["time_min=3", "signal_before_s=60"]).time_min == 3


def test_the_script_asks_for_what_the_profile_says(tmp_path):
    lines = script(
        tmp_path,
        partition="gpu",
        account="surgery",
        qos="long",
        nodes=2,
        gpus_per_node=4,
        cpus_per_task=8,
        mem_gb=64,
        time_min=90,
        constraint="a100",
        exclude="n[7-9]",
        signal_before_s=100,
        setup=("module load cuda",),
        environment={"NCCL_SOCKET_IFNAME": "ib0 eth0"},
        extra={"reservation": "week"},
    )
    asked = {
        "partition=gpu", "account=surgery", "qos=long", "nodes=2", "gpus-per-node=4", "ntasks-per-node=4",
        "cpus-per-task=8", "mem=65536M", "time=90", "constraint=a100", "exclude='n[7-9]'", "signal=USR2@100",
        "requeue", "reservation=week", "job-name=trocar-pretrain",
    }  # fmt: skip
    assert {f"#SBATCH --{option}" for option in asked} <= set(lines)
    assert not any("wckey" in line for line in lines)
    setup = lines.index("# setup")
    assert lines[setup + 1 : setup + 3] == ["export NCCL_SOCKET_IFNAME='ib0 eth0'", "module load cuda"]
    # one task that ends must not leave the others waiting, and each gets the CPUs that sbatch was asked for
    assert "--wait=60 --cpus-per-task=8" in lines[-1]


@pytest.mark.parametrize("key", ["nodes", "--nodes", "N", "-N", "NODES", "node"])
def test_an_option_that_the_profile_has_a_field_for_is_refused_in_every_spelling(key):
    with pytest.raises(
        ConfigError, match=rf"extra: {key} is sbatch's --nodes, for which the profile has a field: nodes"
    ):
        load_profile("cpu", [f"extra={{{key}: 3}}"])


@pytest.mark.parametrize(
    ("key", "field"),
    [
        ("ntasks", "tasks_per_node"),
        ("n", "tasks_per_node"),
        ("ntasks_per_node", "tasks_per_node"),
        ("gpus", "gpus_per_node"),
        ("G", "gpus_per_node"),
        ("c", "cpus_per_task"),
        ("mem", "mem_gb"),
        ("time", "time_min"),
        ("t", "time_min"),
        ("signal", "signal_before_s"),
        ("array", "array_limit"),
        ("p", "partition"),
        ("account", "account"),
        ("output", "logs are where"),
        ("e", "logs are where"),
        ("job_name", "jobs are called"),
        ("dependency", "Trocar writes what a job waits for"),
        ("requeue", "needs the requeue"),
        ("no-requeue", "needs the requeue"),
    ],
)
def test_what_trocar_writes_itself_is_refused_with_who_decides(key, field):
    with pytest.raises(ConfigError, match=f"extra: {key} is sbatch's --.*{field}"):
        load_profile("cpu", [f"extra={{{key}: 1}}"])


def test_memory_per_cpu_takes_the_place_of_memory_per_node(tmp_path):
    lines = script(tmp_path, mem_gb=32, extra={"mem_per_cpu": "3G"})
    assert "#SBATCH --mem-per-cpu=3G" in lines
    assert not any(line.startswith("#SBATCH --mem=") for line in lines)
    assert "#SBATCH --mem=32768M" in script(tmp_path, mem_gb=32, extra={"mem_per_cpu": False})
    with pytest.raises(ConfigError, match="one of mem-per-cpu and mem-per-gpu"):
        load_profile("cpu", ["extra={mem-per-cpu: 3G, mem_per_gpu: 20G}"])


def test_true_is_an_option_without_a_value_and_false_leaves_it_out(tmp_path):
    lines = script(tmp_path, extra={"overcommit": True, "exclusive": False, "mail_type": "END", "nice": 100})
    assert {"#SBATCH --overcommit", "#SBATCH --mail-type=END", "#SBATCH --nice=100"} <= set(lines)
    assert not any("exclusive" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("extra={mail-type: END, mail_type: ALL}", "mail_type is given twice, as --mail-type"),
        ('extra={"a b": 1}', "is no option of sbatch"),
        ('extra={comment: "a\\nrm x"}', "is no option of sbatch in one line"),
        ("extra={cpus-per-gpu: 4}", "cpus-per-gpu and cpus_per_task exclude each other"),
    ],
)
def test_what_sbatch_would_refuse_is_refused_before(words, message):
    with pytest.raises(ConfigError, match=message):
        load_profile("cpu", [words])


def test_gpus_are_asked_for_in_one_way():
    with pytest.raises(ConfigError, match="with gres take gpus_per_node: 0"):
        load_profile("gpu", ["extra={gres: gpu:a100:4}"])
    assert load_profile("gpu", ["extra={gres: gpu:a100:4}", "gpus_per_node=0", "tasks_per_node=4"]).ranks == 4


def test_python_starts_in_the_container_and_the_script_requeues_outside_of_it(tmp_path):
    image = Container(image="/images/trocar.sif", mounts=("/scratch",), python="/opt/bin/python")
    lines = script(tmp_path, container=image)
    (command,) = [line for line in lines if line.startswith("srun")]
    assert "apptainer exec --nv --bind /scratch /images/trocar.sif /opt/bin/python -u -m submitit" in command
    after = lines[lines.index("# teardown") + 1 :]
    assert after[0] == "code=$?"
    assert any("scontrol requeue" in line for line in after)
    assert after[-1] == "exit $code"
    pyxis = script(tmp_path, container=image.model_copy(update={"runner": "pyxis"}))
    (command,) = [line for line in pyxis if line.startswith("srun")]
    assert "--container-image=/images/trocar.sif --container-mounts=/scratch:/scratch /opt/bin/python" in command


def test_a_dependency_that_can_never_be_met_ends_the_job(tmp_path):
    waiting = slurm_executor(Profile(), tmp_path, "study", "aftercorr:12")
    text = waiting.script([0, 1, 2, 5], limit=3)
    assert "#SBATCH --array=0-2,5%3" in text
    assert "#SBATCH --dependency=aftercorr:12" in text
    assert "#SBATCH --kill-on-invalid-dep=yes" in text
    assert "%A_%a_0_log.err" in text
    assert "kill-on-invalid-dep" not in slurm_executor(Profile(), tmp_path, "study").script()
