import json
import socket
import subprocess
import sys

import pytest

from trocar.errors import TrocarError
from trocar.ssl.ranks.rendezvous import port_store

OTHER = """
import sys
from pathlib import Path
from trocar.ssl.ranks.rendezvous import port_store
store = port_store(Path(sys.argv[1]), 1, 2, timeout_s=60)
store.set("from 1", "here")
print(store.get("from 0").decode())
"""


def test_ranks_meet_at_the_port_that_rank_0_publishes_whatever_an_earlier_life_left(tmp_path):
    file = tmp_path / "meet" / "12-1.json"
    file.parent.mkdir()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        # nobody listens there
        file.write_text(json.dumps({"hosts": ["127.0.0.1"], "port": closed.getsockname()[1]}))
        other = subprocess.Popen([sys.executable, "-c", OTHER, str(file)], stdout=subprocess.PIPE, text=True)
        store = port_store(file, 0, 2, timeout_s=60)
        store.set("from 0", "hello")
        assert store.get("from 1") == b"here"
    assert other.communicate(timeout=60)[0] == "hello\n"
    assert other.returncode == 0


def test_two_jobs_of_one_machine_have_ports_of_their_own(tmp_path):
    stores = [port_store(tmp_path / f"{job}.json", 0, 1) for job in (1, 2)]
    assert len({store.port for store in stores}) == 2


def test_a_rank_that_finds_nobody_says_what_it_tried(tmp_path):
    with pytest.raises(TrocarError, match=r"12-0\.json did not appear"):
        port_store(tmp_path / "12-0.json", 1, 2, timeout_s=0.5)
