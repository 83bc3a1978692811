#!/usr/bin/env bash
# Creates a Cloud TPU slice, installs rlcw on it and runs jobs; see docs/tpu.md.
#
#   ./scripts/tpu_vm.sh create  --project=P --zone=Z [--accelerator=A] [--spot]
#   ./scripts/tpu_vm.sh setup   --project=P --zone=Z --share=IP:/VOLUME
#   ./scripts/tpu_vm.sh run     --project=P --zone=Z -- --config=… --workdir=…
#   ./scripts/tpu_vm.sh logs    --project=P --zone=Z [--worker=0]
#   ./scripts/tpu_vm.sh status  --project=P --zone=Z
#   ./scripts/tpu_vm.sh stop    --project=P --zone=Z
#   ./scripts/tpu_vm.sh delete  --project=P --zone=Z
#
# create   requests the slice as a queued resource and waits until it is ready;
#          a slice that was preempted, or whose request failed, is deleted and
#          requested again
# setup    on every worker: mounts the share, installs this repository's HEAD
# run      on every worker: starts `rlcw --distributed ARGUMENTS` in the
#          background
# stop     on every worker: sends the job SIGTERM and waits for its end; status
#          75 in the log says that the same `run` resumes it
# Every command is idempotent: it does nothing if its work is done already.
#
# --name=rlcw               name of the slice and of its request
# --accelerator=v5litepod-16
# --runtime=…               software version; default: that of the accelerator
# --share=IP:/VOLUME        NFS share for all workers, which outlives the slice
# --spot                    cheaper, but may be preempted
# --env=NAME[=VALUE]        for `run`: a variable of the job, by default with its
#                           value here (so that no command line shows a secret);
#                           may be repeated
# --dry-run                 prints the gcloud calls, one per line, and runs none
# The environment variables RLCW_PROJECT, RLCW_ZONE, RLCW_NAME,
# RLCW_ACCELERATOR, RLCW_RUNTIME and RLCW_SHARE set the defaults of these flags;
# RLCW_POLL=30 is the interval in seconds at which `create` polls the state.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# A dry run prints its calls to descriptor 3, because $(...) captures stdout.
exec 3>&1

fail() {
  echo "tpu_vm.sh: $*" >&2
  exit 1
}

project=${RLCW_PROJECT:-}
zone=${RLCW_ZONE:-}
name=${RLCW_NAME:-rlcw}
accelerator=${RLCW_ACCELERATOR:-v5litepod-16}
runtime=${RLCW_RUNTIME:-}
share=${RLCW_SHARE:-}
poll=${RLCW_POLL:-30}
worker=0
spot=
dry=false
environment=  # export commands

# need VARIABLE EXAMPLE: exits with an error if the setting is missing.
need() {
  local variable
  variable=RLCW_$(echo "$1" | tr '[:lower:]' '[:upper:]')
  [ -n "${!1}" ] ||
    fail "--$1=… (or $variable) is missing, for example --$1=$2"
}

# Sets the runtime from the accelerator, and checks the size of the slice:
# https://cloud.google.com/tpu/docs/runtimes, …/v5e, …/v5p, …/v6e
default_runtime() {
  local generation=${accelerator%-*} size=${accelerator##*-}
  local flat='1, 4, 8, 16, 32, 64, 128, 256 chips'
  local expected="expected v5litepod-N or v6e-N ($flat), v5p-N (N cores, two a \
chip: 8, 16, … 12288)"
  case $generation in
    v5litepod) software=v2-alpha-tpuv5-lite ;;
    v6e) software=v2-alpha-tpuv6e ;;
    v5p) software=v2-alpha-tpuv5 ;;
    *) fail "--accelerator=$accelerator is unknown; $expected" ;;
  esac
  # Digits without a leading zero: bash would read 0… as octal.
  case $generation:$size in
    v5p:*[!0-9]* | v5p:0* | *:) fail "--accelerator=$accelerator; $expected" ;;
    v5p:*)
      [ $((size % 8)) = 0 ] && [ "$size" -le 12288 ] ||
        fail "--accelerator=$accelerator; $expected" ;;
    *:1 | *:4 | *:8 | *:16 | *:32 | *:64 | *:128 | *:256) ;;
    *) fail "--accelerator=$accelerator; $expected" ;;
  esac
  runtime=${runtime:-$software}
}

# add_variable NAME[=VALUE]: adds a variable of the job.
add_variable() {
  local variable=${1%%=*} line
  case $variable in
    '' | [0-9]* | *[!A-Za-z0-9_]*)
      fail "--env=$variable; expected NAME or NAME=VALUE" ;;
  esac
  if [ "$1" = "$variable" ]; then
    [ -n "${!variable+x}" ] ||
      fail "--env=$variable: there is no such variable here; expected NAME=VALUE"
    set -- "$variable=${!variable}"
  fi
  printf -v line 'export %s=%q\n' "$variable" "${1#*=}"
  environment+=$line
}

# tpus GROUP COMMAND ARGUMENTS...: calls gcloud; a dry run prints the call.
tpus() {
  set -- gcloud compute tpus "$@" "--project=$project" "--zone=$zone"
  if $dry; then
    { printf '%q' "$1" && printf ' %q' "${@:2}" && echo; } >&3
  else
    "$@"
  fi
}

# describe GROUP FIELD: prints a field of the slice, or nothing if there is no
# slice.  Any other error of gcloud ends the script: taken for a missing slice,
# it would make `create` request another one.
assumed=ACTIVE,READY  # states of request and node that a dry run assumes
describe() {
  local status=0
  tpus "$1" describe "$name" "--format=value($2)" 2>"$scratch/err" || status=$?
  if $dry; then
    [ "$1" = queued-resources ] && echo "${assumed%,*}" || echo "${assumed#*,}"
  elif [ $status != 0 ] && ! grep -q 'NOT_FOUND' "$scratch/err"; then
    cat "$scratch/err" >&2
    exit $status
  fi
}

# Prints the state of the slice: absent, ready, gone (delete it before the next
# request), or a transitional state of gcloud.
slice() {
  local request node
  # This runs inside $(...), where bash turns `set -e` off, hence `|| exit`.
  request=$(describe queued-resources state.state) || exit
  case $request in
    '') echo absent ;;
    SUSPENDED | FAILED) echo "gone ($request)" ;;
    ACTIVE)
      node=$(describe tpu-vm state) || exit
      case $node in
        READY) echo ready ;;
        '' | PREEMPTED | TERMINATED) echo "gone (${node:-deleted})" ;;
        *) echo "$node" ;;
      esac ;;
    *) echo "$request" ;;
  esac
}

create() {
  local state before='' asked=false
  default_runtime
  assumed=,
  while true; do
    state=$(slice)
    [ "$state" = "$before" ] || $dry || echo "$name: $state"
    before=$state
    case $state in
      ready) return ;;
      absent)
        tpus queued-resources create "$name" "--node-id=$name" \
          "--accelerator-type=$accelerator" "--runtime-version=$runtime" \
          ${spot:+"$spot"}
        asked=true assumed=ACTIVE,READY ;;
      gone*)
        # Do not repeat a request that failed in this call: it would loop.
        ! $asked || fail "the request for $name ended at once, as \`gcloud \
compute tpus queued-resources describe $name\` explains: quota? the zone?"
        tpus queued-resources delete "$name" --force --quiet ;;
      *) sleep "$poll" ;;
    esac
  done
}

# on WORKERS SCRIPT: runs a script on one worker, or with `all` on every worker.
on() {
  tpus tpu-vm ssh "$name" "--worker=$1" --quiet "--command=$2"
}

# Installs Python and packages on the workers; pip fetches it from PyPI, and
# refuses a file of another digest.
uv='uv==0.13.9'
uv+=' --hash=sha256:d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19'  # x86-64
uv+=' --hash=sha256:5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe'  # ARM
# The users of several workers, whose ids may differ, write to the same folders
# of the share: they are in one group, whose id is the same everywhere.
group=rlcw gid=7210

# In a worker's home are rlcw/ (the repository and its .venv), share/ (mounted),
# rlcw.log, rlcw.pid and rlcw.lock, which is locked while a job runs.  Unlike a
# pid file, the lock is released when the job crashes or the worker reboots.
setup_script() {
  printf 'commit=%q share=%q\n' "$1" "$share"
  printf 'uv=%q group=%q gid=%q\n' "$uv" "$group" "$gid"
  cat <<'REMOTE'
set -eu
umask 027
install_package() {
  sudo apt-get -qq -o DPkg::Lock::Timeout=600 update
  sudo apt-get -qq -y -o DPkg::Lock::Timeout=600 install "$1"
}
getent group "$group" >/dev/null || sudo groupadd --gid "$gid" "$group"
# from the next login on
id -nG | grep -qw "$group" || sudo usermod --append --groups "$group" "$(id -un)"
if mountpoint -q ~/share; then
  mounted=$(findmnt --noheadings --output SOURCE ~/share || true)
  if [ -n "$mounted" ] && [ "${mounted%/}" != "${share%/}" ]; then
    echo "$(hostname): ~/share is $mounted: unmount it for $share" >&2
    exit 1
  fi
else
  command -v mount.nfs >/dev/null || install_package nfs-common
  mkdir -p ~/share
  sudo mount -t nfs "$share" ~/share
  sudo mkdir -p ~/share/runs
  sudo chgrp "$gid" ~/share ~/share/runs
  # 2: what is made in them is the group's too
  sudo chmod 2770 ~/share ~/share/runs
fi
if [ "$(cat ~/rlcw/.ready 2>/dev/null)" = "$commit" ]; then
  echo "$(hostname): is set up"
  exit
fi
# never replace the code of a running job
exec 9>~/rlcw.lock
flock -n 9 || { echo "$(hostname): a job runs; stop it first" >&2; exit 1; }
rm -rf ~/rlcw
mkdir -p ~/rlcw
tar -xzf ~/rlcw.tar.gz -C ~/rlcw
ln -sfn ~/share/runs ~/rlcw/runs
python3 -m pip --version >/dev/null 2>&1 || install_package python3-pip
# pip reads digests from a file of requirements alone
echo "$uv" | python3 -m pip install --quiet --upgrade --only-binary :all: \
  --target ~/uv --require-hashes --requirement /dev/stdin
# the image's own Python may be older than required
~/uv/bin/uv venv --quiet --python 3.12 ~/rlcw/.venv
~/uv/bin/uv pip install --quiet --python ~/rlcw/.venv/bin/python -e ~/rlcw'[tpu]'
# written last: an interrupted setup is repeated
echo "$commit" >~/rlcw/.ready
echo "$(hostname): is set up"
REMOTE
}

setup() {
  local commit archive=rlcw.tar.gz
  need share 10.0.0.2:/vol1
  case $share in
    *:/[!/]*) ;;
    *) fail "--share=$share is no NFS share; expected IP:/VOLUME" ;;
  esac
  commit=$(git -C "$root" rev-parse HEAD)
  [ -z "$(git -C "$root" status --porcelain --untracked-files=no)" ] ||
    echo "tpu_vm.sh: uncommitted changes are not copied, only $commit" >&2
  if ! $dry; then
    archive=$scratch/$archive
    git -C "$root" archive --format=tar.gz --output="$archive" HEAD
  fi
  tpus tpu-vm scp "$archive" "$name:rlcw.tar.gz" --worker=all --quiet
  on all "$(setup_script "$commit")"
}

run_script() {
  printf 'set --'
  printf ' %q' "$@"
  printf '\nwith_env=%s\n' "${environment:+true}"
  cat <<'REMOTE'
set -eu
umask 007  # the group of all workers' users writes to the share
trap 'rm -f ~/rlcw.env' EXIT
exec 9>~/rlcw.lock
if ! flock -n 9; then
  echo "$(hostname): a job runs already; nothing started"
  exit
fi
if ! { [ -e ~/rlcw/.ready ] && mountpoint -q ~/share; }; then
  echo "$(hostname): is not set up: tpu_vm.sh setup" >&2
  exit 1
fi
# The job gets SIGTERM with its whole process group.  Its shell survives it
# (trap), so that the exit status of rlcw reaches the log; the job inherits
# descriptor 9 and thus keeps the lock.
[ -z "$with_env" ] || . ~/rlcw.env
cd ~/rlcw
export PATH="$PWD/.venv/bin:$PATH"
job='trap : TERM; rlcw --distributed "$@"; echo "rlcw ended with status $?"'
setsid nohup bash -c "$job" rlcw "$@" </dev/null >>~/rlcw.log 2>&1 &
echo $! >~/rlcw.pid
echo "$(hostname): started"
REMOTE
}

run() {
  [ $# -gt 0 ] || fail "run: arguments of rlcw are missing, for example run -- \
--config=configs/grpo.py --workdir=runs/tpu"
  if [ -n "$environment" ]; then
    # In a file that its owner alone reads: command lines are seen in lists of
    # processes, and kept in gcloud's logs.
    local file=rlcw.env
    if ! $dry; then
      file=$scratch/$file
      (umask 077 && printf %s "$environment" >"$file")
    fi
    tpus tpu-vm scp "$file" "$name:rlcw.env" --worker=all --quiet
  fi
  on all "$(run_script "$@")"
}

# shellcheck disable=SC2016  # these expand on the workers
stop() {
  on all 'exec 9>~/rlcw.lock
if ! flock -n 9; then
  kill -TERM -- "-$(cat ~/rlcw.pid)"
  flock -w 600 9 || { echo "$(hostname): still running after 600 s" >&2; exit 1; }
fi
echo "$(hostname): no job runs"'
}

# shellcheck disable=SC2016
status() {
  local state
  state=$(slice)
  $dry || echo "$name: $state"
  [ "$state" != ready ] || on all 'exec 9>>~/rlcw.lock
flock -n 9 && job="no job runs" || job="a job runs"
echo "$(hostname): $job; $(tail -qn 1 ~/rlcw.log 2>&1)"'
}

logs() {
  on "$worker" 'tail -n 50 -F ~/rlcw.log'
}

delete() {
  local request
  request=$(describe queued-resources state.state)
  if [ -z "$request" ]; then
    echo "$name: absent"
  else
    tpus queued-resources delete "$name" --force --quiet
  fi
}

commands='create setup run logs status stop delete'
command=${1:-}
case " $commands " in
  *" $command "*) ;;
  *) fail "command '$command' is unknown; expected one of: $commands" ;;
esac
shift
while [ $# -gt 0 ]; do
  case $1 in
    --project=* | --zone=* | --name=* | --accelerator=* | --runtime=* | \
      --share=* | --worker=*)
      setting=${1%%=*}
      printf -v "${setting#--}" %s "${1#*=}" ;;
    --env=*) add_variable "${1#*=}" ;;
    --env)
      [ $# -gt 1 ] || fail '--env; expected NAME or NAME=VALUE after it'
      shift
      add_variable "$1" ;;
    --spot) spot=--spot ;;
    --dry-run) dry=true ;;
    --)
      shift
      break ;;
    *) fail "$1 is unknown; expected --project= --zone= --name= --accelerator= \
--runtime= --share= --worker= --env= --spot --dry-run, and rlcw's arguments after --" ;;
  esac
  shift
done
[ $# = 0 ] || [ "$command" = run ] || fail "$command takes no arguments: $*"
[ -z "$environment" ] || [ "$command" = run ] || fail "$command takes no --env"
need project my-project
need zone us-central1-a
case $worker in
  all | [0-9] | [1-9][0-9] | [1-9][0-9][0-9]) ;;
  *) fail "--worker=$worker; expected a number from 0, or all" ;;
esac
$dry || command -v gcloud >/dev/null ||
  fail 'gcloud is not installed: https://cloud.google.com/sdk/docs/install'
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$command" "$@"
