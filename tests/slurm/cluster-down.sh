#!/usr/bin/env bash
# Stops exactly the daemons that cluster-up.sh started, by the pids it recorded. Idempotent.
#   SLURM_UP_DIR    as for cluster-up.sh
#   SLURM_DOWN_PURGE=1   also removes state, logs and configuration
set -euo pipefail
DIR=${SLURM_UP_DIR:-/var/tmp/trocar-slurm}
PIDS=$DIR/pids
MARK='# written by cluster-up.sh'

start_ticks() {
    local s
    { s=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
    s=${s##*) }
    set -- $s
    [[ $1 != Z ]] || return 1
    echo "${20}"
}
stop() { # NAME
    local name=$1 pid ticks i
    [[ -r $PIDS/$name ]] || return 0
    read -r pid ticks <"$PIDS/$name" || true
    if [[ -n ${ticks:-} && $(start_ticks "$pid") == "$ticks" ]]; then
        kill -TERM "$pid" 2>/dev/null || true
        for ((i = 0; i < 150; i++)); do
            [[ $(start_ticks "$pid") == "$ticks" ]] || break
            sleep 0.1
        done
        if [[ $(start_ticks "$pid") == "$ticks" ]]; then
            echo "cluster-down: $name ($pid) did not stop in 15 s: SIGKILL" >&2
            kill -KILL "$pid" 2>/dev/null || true
        fi
        echo "cluster-down: stopped $name ($pid)" >&2
    fi
    rm -f "$PIDS/$name"
}

if [[ -d $PIDS ]]; then
    # jobs first: their slurmstepd and srun are children of nobody once slurmd is gone
    if [[ -e $PIDS/slurmctld ]] && timeout 5 scontrol ping >/dev/null 2>&1; then
        timeout 10 squeue -h -o %A 2>/dev/null | sort -u | xargs -r timeout 20 scancel 2>/dev/null || true
        for ((i = 0; i < 150; i++)); do
            [[ -z $(timeout 5 squeue -h -o %A 2>/dev/null) ]] && break
            sleep 0.1
        done
    fi
    for f in "$PIDS"/slurmd-*; do [[ -e $f ]] && stop "$(basename "$f")"; done
    for name in slurmctld slurmdbd mariadb munged; do stop "$name"; done
fi
if grep -qF "$MARK" /etc/hosts; then
    others=$(grep -vF "$MARK" /etc/hosts || true)
    printf '%s\n' "$others" >/etc/hosts
fi
if [[ ${SLURM_DOWN_PURGE:-} == 1 ]]; then
    for f in /etc/slurm/slurm.conf /etc/slurm/gres.conf /etc/slurm/slurmdbd.conf; do
        [[ -e $f ]] && grep -qF "$MARK" "$f" && rm -f "$f"
    done
    rm -rf "$DIR"
fi
