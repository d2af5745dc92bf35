import pytest

from trocar.config import preset_names
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
