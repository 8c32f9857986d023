#!/bin/sh
# Runs as the first process of the virtual machine of vm.sh. Phase 1: a cluster with the old build, the node's
# promises on cgroup v2, the upgrade. Phase 2, over the same disk: what was running runs again; then nothing is left.
export PATH=/bin:/sbin HOME=/root KUBECONFIG=/root/.kube/config
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mkdir -p /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
hostname machine
ip link set lo up
for name in overlay veth dummy nf_tables nft_ct nft_nat nft_masq nft_redir nft_numgen nft_reject_inet nft_fib_inet; do
  modprobe $name || echo "no module $name"
done
phase=$(sed 's/.*phase=\([0-9]*\).*/\1/' /proc/cmdline)

said() { echo "$(cut -d' ' -f1 /proc/uptime) $*"; }
fail() {
  said "FAILED: $*"
  tail -n 40 /knarr.log
  kubectl get pods -A -o wide
  kubectl get events -A | tail -n 30
  sync; poweroff -f
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
is() { [ "$(eval "$1" 2>/dev/null)" = "$2" ] || { echo "$1 says $(eval "$1" 2>&1), not $2"; return 1; }; }
of() { kubectl get pod "$1" -o "jsonpath={$2}"; }
first='.status.containerStatuses[0]'
# Starts a build of the daemon and waits until it is ready.
up() {
  "/bin/$1" up --pod-max-pids 60 --kubeconfig /root/.kube/config > /knarr.log 2>&1 &
  daemon=$!
  within 240 grep -q "Ready after" /knarr.log
  said "$1: $(grep 'Ready after' /knarr.log)"
}
identities() {
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
    pod hog 'tail /dev/zero' '    resources: {limits: {memory: 24Mi}}' '  restartPolicy: Never'
    pod bomb 'i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i+1)); done; wait' '' '  restartPolicy: Never'
    pod hung 'sleep 100000' '    livenessProbe: {exec: {command: [sleep, "100"]}, timeoutSeconds: 1, periodSeconds: 1, failureThreshold: 1}' ''
  } > /tmp/pods
  kubectl apply -f /tmp/pods || fail apply
  for name in limited counter; do within 120 is "of $name $first.ready" true; done
  said "pods are ready"
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
  within 60 is "of bomb .status.phase" Failed
  kubectl logs bomb | grep -q "can't fork" || fail "what the fork bomb says: $(kubectl logs bomb)"
  said "the hog and the bomb are stopped"
  within 60 sh -c 'kubectl get events | grep -q "Unhealthy.*Liveness probe failed: command timed out"'
  kubectl delete pod hung hog bomb --wait=true || fail delete
  said "a hung probe is told"
  identities > /tmp/before
  [ "$(wc -l < /tmp/before)" = 2 ] || fail "two pods: $(cat /tmp/before)"
  for signal in KILL TERM; do
    kill -$signal $daemon
    wait $daemon
    up knarr-new
    identities > /tmp/after
    cmp -s /tmp/before /tmp/after || fail "upgrade: $(cat /tmp/before /tmp/after)"
    is "kubectl exec limited -- echo alive" alive || fail "exec after the upgrade"
  done
  kubectl logs counter | awk '{ if ($2 != NR - 1) exit 1 }' || fail "a line is lost: $(kubectl logs counter)"
  said "upgraded under running pods: $(cat /tmp/after | tr '\n' ' ')"
  pod late 'sleep 100000' '' '' | kubectl apply -f - || fail apply
  said "phase 1: passed; the power goes off in the middle of a start"
  sync
  # No shutdown: what is not on the disk is lost.
  echo b > /proc/sysrq-trigger
}

phase2() {
  up knarr-new
  for name in limited counter; do
    within 180 is "of $name $first.restartCount" 1
    within 120 is "of $name $first.ready" true
  done
  within 120 is "of late $first.ready" true
  is "kubectl exec limited -- echo alive" alive || fail "exec after the reboot"
  said "pods are back: $(identities | tr '\n' ' ')"
  within 60 sh -c '[ "$(kubectl logs counter | head -n 1)" = "line 0" ]'
  knarr-new down || fail down
  wait $daemon
  [ ! -e /sys/fs/cgroup/knarr ] || fail "cgroups are left: $(find /sys/fs/cgroup/knarr -type d)"
  ! ip link | grep -E 'kn[a-z0-9]+@|knarr0' || fail "links are left"
  ! grep -E 'knarr|overlay' /proc/mounts || fail "mounts are left"
  ! ps | grep -q '[k]narr-shim' || fail "shims are left"
  said "phase 2: passed"
  sync
  poweroff -f
}

phase$phase
