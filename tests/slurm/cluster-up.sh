#!/usr/bin/env bash
# Starts a real SLURM cluster (Debian's packages, several virtual nodes) on this one machine,
# on loopback only and without systemd. Idempotent. Needs root. Stop it with cluster-down.sh.
#
#   SLURM_UP_ACCOUNTING=dbd|none  dbd (default): MariaDB + slurmdbd, so that sacct works, which
#                                 submitit reads job states with; none: no sacct
#   SLURM_UP_NODES=4 SLURM_UP_CPUS=16 SLURM_UP_MEM_MB=512000 SLURM_UP_GPUS=8   per virtual node: all fake
#   SLURM_UP_DIR=/var/tmp/trocar-slurm     pids, logs, state
#   SLURM_UP_SLURMD_TIMEOUT=30         seconds of silence until a node is DOWN
#   SLURM_UP_REQUEUE_WAIT=5            seconds until a requeued job may start again (cred_expire: SLURM takes
#                                      less than 5 for invalid and uses its default, 120)
#   SLURM_UP_KILL_WAIT=5               seconds from SIGTERM to SIGKILL (SLURM's default is 30)
#   SLURM_UP_SEND_USER_SIGNAL=1        1: preemption with a GraceTime sends a job its own --signal (submitit: USR2);
#                                      0: it sends SIGTERM alone, as SLURM does by default
#   SLURM_UP_INSTALL_ONLY=1            stop after the packages (e.g. to time it, or in an image)
set -euo pipefail
umask 022  # a stricter umask makes munge, slurmctld and slurmd refuse their own folders

ACCOUNTING=${SLURM_UP_ACCOUNTING:-dbd}
NODES=${SLURM_UP_NODES:-4}
CPUS=${SLURM_UP_CPUS:-16}
MEM_MB=${SLURM_UP_MEM_MB:-512000}
GPUS=${SLURM_UP_GPUS:-8}
TIMEOUT=${SLURM_UP_SLURMD_TIMEOUT:-30}
REQUEUE_WAIT=${SLURM_UP_REQUEUE_WAIT:-5}
KILL_WAIT=${SLURM_UP_KILL_WAIT:-5}
preempt_parameters=''
[[ ${SLURM_UP_SEND_USER_SIGNAL:-1} == 1 ]] && preempt_parameters='SlurmctldParameters=preempt_send_user_signal'
DIR=${SLURM_UP_DIR:-/var/tmp/trocar-slurm}
PIDS=$DIR/pids
LOGS=$DIR/log
MARK='# written by cluster-up.sh'
BASE_PORT=17000

say() { printf 'cluster-up: [%3ds] %s\n' "$SECONDS" "$*" >&2; }
die() {
    say "FAILED: $*"
    for f in "$LOGS"/*.out; do
        [[ -e $f ]] && { echo "--- tail of $f" >&2; tail -n 15 "$f" >&2; }
    done
    exit 1
}

[[ $(id -u) == 0 ]] || die 'must run as root'
((REQUEUE_WAIT >= 5)) || die "SLURM_UP_REQUEUE_WAIT=$REQUEUE_WAIT: SLURM would use 120 s for less than 5"
case $ACCOUNTING in dbd | none) ;; *) die "SLURM_UP_ACCOUNTING=$ACCOUNTING: want dbd or none" ;; esac

# ---- pids: one file a daemon, '<pid> <start time in ticks>', so that a reused pid is never taken for ours
start_ticks() { # PID -> field 22 of /proc/PID/stat (the command name in field 2 may hold blanks)
    local s
    { s=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
    s=${s##*) }
    set -- $s
    [[ $1 != Z ]] || return 1
    echo "${20}"
}
alive() { # NAME
    local pid ticks
    [[ -r $PIDS/$1 ]] || return 1
    read -r pid ticks <"$PIDS/$1" || return 1
    [[ $(start_ticks "$pid") == "$ticks" ]]
}
launch() { # NAME COMMAND...: in the background, detached, its pid recorded
    local name=$1 pid
    shift
    setsid "$@" </dev/null >"$LOGS/$name.out" 2>&1 &
    pid=$!
    disown "$pid"
    sleep 0.05
    echo "$pid $(start_ticks "$pid" || echo gone)" >"$PIDS/$name"
}
wait_for() { # SECONDS NAME COMMAND...: until COMMAND succeeds; gives up at once if the daemon NAME is gone
    local deadline=$((SECONDS + $1)) name=$2 out
    shift 2
    until out=$("$@" 2>&1); do
        [[ ! -e $PIDS/$name ]] || alive "$name" || die "$name has ended; '$*' said: $out"
        ((SECONDS < deadline)) || die "timed out waiting for $name; '$*' said: $out"
        sleep 0.1
    done
}

# ---- 1. packages
packages=(slurmctld slurmd slurm-client munge)
[[ $ACCOUNTING == dbd ]] && packages+=(slurmdbd slurm-wlm-mysql-plugin mariadb-server-core mariadb-client-core)
missing=()
for p in "${packages[@]}"; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null) == installed ]] || missing+=("$p")
done
if ((${#missing[@]})); then
    say "installing ${missing[*]}"
    mkdir -p "$DIR"
    apt_log=$DIR/apt.log
    # The packages must not start their own daemons: invoke-rc.d asks this file (containers mostly have one)
    policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt=(apt-get -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=600)
    "${apt[@]}" update >"$apt_log" 2>&1 || die "apt-get update: see $apt_log"
    "${apt[@]}" install --no-install-recommends "${missing[@]}" >>"$apt_log" 2>&1 ||
        die "apt-get install: see $apt_log"
    say 'packages installed'
fi
[[ ${SLURM_UP_INSTALL_ONLY:-} == 1 ]] && exit 0

# ---- 2. configuration
mkdir -p "$DIR" "$PIDS" "$LOGS" "$DIR/ctld" "$DIR/spool" "$DIR/state"
conf=/etc/slurm/slurm.conf
for f in "$conf" /etc/slurm/gres.conf /etc/slurm/slurmdbd.conf; do
    [[ ! -e $f ]] || grep -qF "$MARK" "$f" || die "$f exists and was not written by this script"
done
if [[ $ACCOUNTING == dbd ]]; then
    accounting='AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=6819
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/linux'
else
    accounting='AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none'
fi
gres_types='' gres_node=''
((GPUS > 0)) && { gres_types='GresTypes=gpu' gres_node="Gres=gpu:$GPUS"; }
new_conf=$(
    cat <<CONF
$MARK
ClusterName=ci
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=6817
# bind to loopback, not to 0.0.0.0
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job waits before it starts again (default 120 s)
AuthInfo=cred_expire=$REQUEUE_WAIT
StateSaveLocation=$DIR/ctld
SlurmctldPidFile=$DIR/state/slurmctld.pid
SlurmctldLogFile=$LOGS/slurmctld.log
SlurmdSpoolDir=$DIR/spool/%n
SlurmdPidFile=$DIR/state/slurmd-%n.pid
SlurmdLogFile=$LOGS/slurmd-%n.log
SlurmctldDebug=info
SlurmdDebug=info
# no cgroups and no systemd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
# virtual nodes are as large as this file says, whatever the machine has
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
$gres_types
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=$TIMEOUT
KillWait=$KILL_WAIT
MinJobAge=86400
JobRequeue=1
# quick decisions
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=5,batch_sched_delay=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
$preempt_parameters
JobCompType=jobcomp/filetxt
JobCompLoc=$LOGS/jobcomp.txt
$accounting
NodeName=n[1-$NODES] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[$((BASE_PORT + 1))-$((BASE_PORT + NODES))] CPUs=$CPUS Boards=1 SocketsPerBoard=1 CoresPerSocket=$CPUS ThreadsPerCore=1 RealMemory=$MEM_MB $gres_node State=UNKNOWN
PartitionName=normal Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=preemptable Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=grace Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=100 PreemptMode=OFF
CONF
)
if [[ ! -e $conf || $(<"$conf") != "$new_conf" ]]; then
    for f in "$PIDS"/slurm*; do
        [[ -e $f ]] && alive "$(basename "$f")" &&
            die "other SLURM_UP_* settings than those of the running cluster: run cluster-down.sh first"
    done
    printf '%s\n' "$new_conf" >"$conf"
fi
if ((GPUS > 0)); then
    # Stand-ins for GPUs: gres/gpu takes no Count without File, and wants device files (here: /dev/null's twins)
    mkdir -p "$DIR/gpu"
    for i in $(seq 0 $((GPUS - 1))); do
        [[ -c $DIR/gpu/nvidia$i ]] || mknod "$DIR/gpu/nvidia$i" c 1 3 2>/dev/null ||
            : >"$DIR/gpu/nvidia$i" # no right to mknod: a plain file serves too, with an error in slurmd's log
    done
    printf '%s\nNodeName=n[1-%d] Name=gpu File=%s/gpu/nvidia[0-%d]\n' \
        "$MARK" "$NODES" "$DIR" $((GPUS - 1)) >/etc/slurm/gres.conf
else
    rm -f /etc/slurm/gres.conf
fi
# submitit's hostnames are the node names, and MASTER_ADDR is made from them: they must resolve.
# So must the machine's own name, to loopback, for that is where NoInAddrAny binds slurmdbd.
others=$(grep -vF "$MARK" /etc/hosts || true)
own=''
own_ip=$(printf '%s\n' "$others" | awk -v h="$(hostname)" '!/^#/ { for (i = 2; i <= NF; i++) if ($i == h) { print $1; exit } }')
[[ $own_ip == 127.* ]] || own="127.0.0.1 localhost $(hostname) $MARK"
hosts=$(printf '%s\n' ${own:+"$own"} "$others" "127.0.0.1 $(seq -s ' ' -f 'n%g' 1 "$NODES") $MARK")
[[ $(</etc/hosts) == "$hosts" ]] || printf '%s\n' "$hosts" >/etc/hosts  # not by rename: it may be a mount

# ---- 3. munge: refuses to run unless key and folders are its user's own and closed to others
munge_ok() { munge -n | unmunge; }
if ! munge_ok >/dev/null 2>&1; then
    install -d -o munge -g munge -m 755 /run/munge
    install -d -o munge -g munge -m 700 /etc/munge /var/log/munge
    install -d -o munge -g munge -m 711 /var/lib/munge
    if [[ ! -s /etc/munge/munge.key ]]; then
        (umask 077 && head -c 1024 /dev/urandom >/etc/munge/munge.key)
    fi
    chown munge:munge /etc/munge/munge.key
    chmod 400 /etc/munge/munge.key
    launch munged setpriv --reuid munge --regid munge --init-groups munged --foreground
    wait_for 15 munged munge_ok
    say 'munged answers'
fi

# ---- 4. accounting: MariaDB in a folder of its own, by socket alone, and slurmdbd
if [[ $ACCOUNTING == dbd ]]; then
    # mariadb-server-core makes no user of its own (mysql comes with mariadb-server): slurm's serves
    sql_user=slurm
    sql_sock=$DIR/mariadb/mariadb.sock
    if ! alive mariadb; then
        install -d -o "$sql_user" -g "$sql_user" -m 700 "$DIR/mariadb"
        if [[ ! -d $DIR/mariadb/mysql ]]; then
            mariadb-install-db --no-defaults --user="$sql_user" --datadir="$DIR/mariadb" --skip-test-db \
                --auth-root-authentication-method=socket >"$LOGS/mariadb-install.log" 2>&1 ||
                die 'mariadb-install-db'
        fi
        launch mariadb mariadbd --no-defaults --user="$sql_user" --datadir="$DIR/mariadb" \
            --socket="$sql_sock" --pid-file="$DIR/mariadb/mariadb.pid" --skip-networking \
            --innodb-buffer-pool-size=64M --innodb-log-file-size=32M --innodb-lock-wait-timeout=900 \
            --innodb-flush-log-at-trx-commit=0
        wait_for 60 mariadb mariadb --no-defaults --socket="$sql_sock" -e 'select 1'
        mariadb --no-defaults --socket="$sql_sock" -e "
            create database if not exists slurm_acct_db;
            create user if not exists root@localhost identified via unix_socket;
            grant all on slurm_acct_db.* to root@localhost;"
        say 'MariaDB answers'
    fi
    (
        umask 077 # slurmdbd refuses a slurmdbd.conf that others may read
        cat >/etc/slurm/slurmdbd.conf <<CONF
$MARK
AuthType=auth/munge
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=6819
CommunicationParameters=NoInAddrAny
SlurmUser=root
LogFile=$LOGS/slurmdbd.log
PidFile=$DIR/state/slurmdbd.pid
DebugLevel=info
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
CONF
        chmod 600 /etc/slurm/slurmdbd.conf
    )
    if ! alive slurmdbd; then
        # the socket path reaches the MySQL client library by this variable
        launch slurmdbd env MYSQL_UNIX_PORT="$sql_sock" slurmdbd -D
        wait_for 60 slurmdbd sacctmgr -n show cluster
        [[ -n $(sacctmgr -nP show cluster ci format=cluster) ]] || sacctmgr -i add cluster ci >/dev/null
        say 'slurmdbd answers'
    fi
fi

# ---- 5. controller and nodes
if ! alive slurmctld; then
    launch slurmctld slurmctld -D -i
    wait_for 30 slurmctld scontrol ping
    say 'slurmctld answers'
fi
for i in $(seq 1 "$NODES"); do
    alive "slurmd-n$i" && continue
    mkdir -p "$DIR/spool/n$i"
    launch "slurmd-n$i" slurmd -D -N "n$i"
done
all_up() {
    local n
    for n in $(sinfo -h -N -p normal -t drain,down -o '%N %T' | awk '$2 !~ /\*$/ { print $1 }' | sort -u); do
        scontrol update nodename="$n" state=resume # left so by an earlier test or crash, and answering
    done
    sinfo -N -l -p normal # for the message, should it come to one
    # a trailing * says 'not responding', any other mark does no harm
    [[ $(sinfo -h -N -p normal -o '%N %T' | grep -cE ' (idle|mixed|allocated|completing)[^*]?$') == "$NODES" ]]
}
wait_for 60 nodes all_up
say "up: $(sinfo -h -p normal -o '%D nodes %N, %T, %c CPUs, %m MB, %G')"
