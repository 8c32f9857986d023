#!/bin/sh
# Runs as the first process of the virtual machine of vm.sh. Phase 1: a cluster with the old build, the node's
# promises on cgroup v2, the upgrade. Phase 2, over the same disk: what was running runs again; then nothing is left.
# Phase 3: cases of the black-box suite.
echo "machine: up"
export PATH=/usr/bin:/usr/sbin HOME=/root KUBECONFIG=/root/.kube/config
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
hostname machine
ip link set lo up
for module in $(cut -d: -f1 "/lib/modules/$(uname -r)/modules.dep"); do
  name=${module##*/}
  modprobe "${name%.ko}" || echo "no module $name"
done
phase=$(sed 's/.*phase=\([0-9]*\).*/\1/' /proc/cmdline)

off() { sync; reboot -f; sleep 60; }
# A verdict, after the seconds since boot.
said() { echo "step: ok: $(cut -d' ' -f1 /proc/uptime) s: $*"; }
fail() {
  echo "step: FAILED: $(cut -d' ' -f1 /proc/uptime) s: $*"
  tail -n 40 /knarr.log
  kubectl get pods -A -o wide
  kubectl get events -A | tail -n 30
  off
}
# Tries a command again and again, at most as many seconds as the first argument says.
within() {
  most=$1; shift
  begun=$(cut -d. -f1 /proc/uptime)
  until "$@" >/tmp/last 2>&1; do
    [ $(($(cut -d. -f1 /proc/uptime) - begun)) -lt "$most" ] || fail "not within $most s: $* ($(cat /tmp/last))"
    sleep 0.3
  done
}
is() {
  seen=$(eval "$1" 2>&1)
  [ "$seen" = "$2" ] || { echo "$1 says $seen, not $2"; return 1; }
}
of() { kubectl get pod "$1" -o "jsonpath={$2}"; }
# The pods that live through everything.
stay="limited counter keeper"
first='.status.containerStatuses[0]'
# Starts a build of the daemon and waits until it is ready.
up() {
  "/bin/$1" up --pod-max-pids 60 --kubeconfig /root/.kube/config > /knarr.log 2>&1 &
  daemon=$!
  within 240 sh -c "grep -q 'Ready after' /knarr.log || ! kill -0 $daemon"
  grep -q "Ready after" /knarr.log || fail "$1 ends at once"
  said "$1: $(grep 'Ready after' /knarr.log)"
}
# Who the containers are: name, container, start and restarts as the API says them, and the first process of each
# cgroup as the machine sees it.
identities() {
  find /sys/fs/cgroup/knarr/kubepods -name cgroup.procs | sort | while read -r procs; do
    first_process=$(sort -n "$procs" | head -n 1)
    [ -z "$first_process" ] || echo "$procs $first_process"
  done
  kubectl get pods -o 'jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[*].containerID} {.status.containerStatuses[*].state.running.startedAt} {.status.containerStatuses[*].restartCount}{"\n"}{end}' | sort
}
pod() { # name, command, more of the container, more of the spec
  cat <<POD
apiVersion: v1
kind: Pod
metadata: {name: $1}
spec:
  terminationGracePeriodSeconds: 1
$4
  containers:
  - name: main
    image: busybox:1.35
    command: [sh, -c, '$2']
$3
---
POD
}

phase1() {
  up knarr-old
  knarr-old image import /busybox.tar || fail import
  within 60 kubectl get serviceaccount default
  {
    pod limited 'sleep 100000' '    resources: {requests: {cpu: 20m, memory: 16Mi}, limits: {cpu: 50m, memory: 32Mi}}' ''
    pod counter 'i=0; while :; do echo line $i; i=$((i+1)); sleep 1; done' '' ''
    pod keeper 'echo start >> /data/starts; echo start >> /scratch/starts; sync; exec sleep 100000' \
      '    volumeMounts: [{name: data, mountPath: /data}, {name: scratch, mountPath: /scratch}]' \
      '  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}, {name: scratch, emptyDir: {}}]'
    pod hog 'tail /dev/zero' '    resources: {limits: {memory: 24Mi}}' '  restartPolicy: Never'
    pod bomb 'i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i+1)); done; wait' '' '  restartPolicy: Never'
    pod hung 'sleep 100000' '    livenessProbe: {exec: {command: [sleep, "100"]}, timeoutSeconds: 1, periodSeconds: 1, failureThreshold: 1}' ''
    cat <<CLAIM
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
CLAIM
  } > /tmp/pods
  kubectl apply -f /tmp/pods || fail apply
  for name in $stay; do within 180 is "of $name $first.ready" true; done
  said "pods are ready, one with a ReadWriteOnce volume"
  cgroup=$(find /sys/fs/cgroup/knarr/kubepods -type d -name "pod$(of limited .metadata.uid)")
  is "cat $cgroup/cpu.max" "5000 100000" || fail "cpu.max of the pod"
  is "cat $cgroup/memory.max" $((32 << 20)) || fail "memory.max of the pod"
  is "cat $cgroup/pids.max" 60 || fail "pids.max of the pod"
  # A container sees its own cgroup as the root.
  is "kubectl exec limited -- cat /sys/fs/cgroup/cpu.max" "5000 100000" || fail "cpu.max seen inside"
  is "kubectl exec limited -- cat /proc/self/cgroup" "0::/" || fail "cgroup namespace"
  said "limits are as asked for, exec works"
  within 120 is "of hog $first.state.terminated.reason" OOMKilled
  is "of hog $first.state.terminated.exitCode" 137 || fail "exit code of an OOM kill"
  said "who takes more memory than allowed is OOMKilled"
  within 60 is "of bomb .status.phase" Failed
  kubectl logs bomb | grep -q "can't fork" || fail "what the fork bomb says: $(kubectl logs bomb)"
  said "a fork bomb stops at pids.max"
  within 60 sh -c 'kubectl get events | grep -q "Unhealthy.*Liveness probe failed: command timed out"'
  kubectl delete pod hung hog bomb --wait=true || fail delete
  said "a hung probe is told and its pod deleted"
  identities > /tmp/before
  [ "$(grep -c '/cgroup.procs ' /tmp/before)" -ge 3 ] || fail "three pods' processes: $(cat /tmp/before)"
  for signal in KILL TERM; do
    kill -$signal $daemon
    wait $daemon
    up knarr-new
    identities > /tmp/after
    cmp -s /tmp/before /tmp/after || fail "upgrade: $(cat /tmp/before /tmp/after)"
    is "kubectl exec limited -- echo alive" alive || fail "exec after the upgrade"
    said "upgraded after SIG$signal: same containers, same processes, no restart: $(grep -o '[0-9]*$' /tmp/after | tr '\n' ' ')"
  done
  kubectl logs counter | awk '{ if ($2 != NR - 1) exit 1 }' || fail "a line is lost: $(kubectl logs counter)"
  said "no line of a log was lost by the upgrades"
  # Said before the end: a console's last words may be lost as well.
  echo "phase 1: passed; the power goes off in the middle of a start"
  pod late 'sleep 100000' '' '' | kubectl apply -f - || fail apply
  # No shutdown: what is not on the disk is lost. The file system is not synced for the same reason.
  echo b > /proc/sysrq-trigger
}

phase2() {
  up knarr-new
  for name in $stay; do
    within 180 is "of $name $first.restartCount" 1
    within 120 is "of $name $first.ready" true
  done
  within 180 is "of late $first.ready" true
  is "kubectl exec limited -- echo alive" alive || fail "exec after the reboot"
  said "pods are back with one restart each, and the one that was just being started"
  is "kubectl exec keeper -- cat /data/starts" "start
start" || fail "the ReadWriteOnce volume: $seen"
  is "kubectl exec keeper -- cat /scratch/starts" "start
start" || fail "the emptyDir: $seen"
  said "volumes hold what was written before the reboot"
  within 60 sh -c '[ "$(kubectl logs counter | head -n 1)" = "line 0" ]'
  kubectl logs counter --previous | grep -q "line 3" || fail "logs from before the reboot"
  said "logs begin anew, and those of before the reboot are there"
  knarr-new down || fail down
  wait $daemon
  [ ! -e /sys/fs/cgroup/knarr ] || fail "cgroups are left: $(find /sys/fs/cgroup/knarr -type d)"
  ! ip link | grep -E 'kn[a-z0-9]+@|knarr0' || fail "links are left"
  ! grep -E 'knarr|overlay' /proc/mounts || fail "mounts are left"
  ! ps | grep '[k]narr-shim' || fail "shims are left"
  said "down leaves nothing"
  echo "phase 2: passed"
  off
}

phase3() {
  cases=$(sed 's/.*suite=\([^ ]*\).*/\1/' /proc/cmdline | tr ',' ' ')
  export KNARR_BIN=/usr/bin/knarr-new KNARR_E2E_PATIENCE=5
  /suite/debug/deps/suite $cases 2>&1 | tee /tmp/suite.log
  grep '^test .* \(ok\|FAILED\)' /tmp/suite.log | sed -e 's/^test \(.*\) \.\.\. ok/step: ok: \1/' -e 's/^test \(.*\) \.\.\. FAILED/step: FAILED: \1/'
  if grep -q "^test result: [1-9][0-9]* passed, 0 failed" /tmp/suite.log; then echo "phase 3: passed"; fi
  off
}

phase"$phase"
