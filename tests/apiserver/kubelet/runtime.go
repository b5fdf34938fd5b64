package main

import (
	"context"
	"fmt"
	"os"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// runtime is what runs in the Pods.
type runtime struct {
	dir  string
	lock sync.Mutex
	pods map[key]*podRun
}

// podRun is one Pod: its main programs, and what ends with it.
type podRun struct {
	uid        types.UID
	ctx        context.Context
	end        context.CancelFunc
	containers map[string]*program
	// scratch is where its processes start.
	scratch string
}

func newRuntime(dir string) *runtime {
	return &runtime{dir: dir, pods: map[key]*podRun{}}
}

// start runs a Pod unless it runs already; an older one of the same name ends.
func (r *runtime) start(pod *corev1.Pod) {
	r.lock.Lock()
	defer r.lock.Unlock()
	name := key{Namespace: pod.Namespace, Name: pod.Name}
	if old := r.pods[name]; old != nil {
		if old.uid == pod.UID {
			return
		}
		old.stop()
	}
	ctx, end := context.WithCancel(context.Background())
	run := &podRun{uid: pod.UID, ctx: ctx, end: end, containers: map[string]*program{}}
	for _, container := range pod.Spec.Containers {
		run.containers[container.Name] = startProgram(ctx)
	}
	r.pods[name] = run
}

// stop ends a Pod's programs, processes and streams.
func (r *runtime) stop(namespace, name string) {
	r.lock.Lock()
	defer r.lock.Unlock()
	at := key{Namespace: namespace, Name: name}
	if run := r.pods[at]; run != nil {
		run.stop()
		delete(r.pods, at)
	}
}

// finish ends all of them.
func (r *runtime) finish() {
	r.lock.Lock()
	defer r.lock.Unlock()
	for _, run := range r.pods {
		run.stop()
	}
	os.RemoveAll(r.dir)
}

// find returns a running Pod and one of its containers, which may be empty where only the Pod is asked for.
func (r *runtime) find(namespace, name, container string) (*podRun, *program, error) {
	r.lock.Lock()
	defer r.lock.Unlock()
	run := r.pods[key{Namespace: namespace, Name: name}]
	if run == nil {
		return nil, nil, fmt.Errorf("pod %s/%s does not run here", namespace, name)
	}
	program := run.containers[container]
	if program == nil && container != "" {
		return nil, nil, fmt.Errorf("container %s not found in pod %s_%s", container, name, namespace)
	}
	return run, program, nil
}

// folder returns the scratch folder of a Pod, made when it is first asked for.
func (r *runtime) folder(run *podRun) (string, error) {
	r.lock.Lock()
	defer r.lock.Unlock()
	if run.scratch == "" {
		if err := os.MkdirAll(r.dir, 0o700); err != nil {
			return "", err
		}
		made, err := os.MkdirTemp(r.dir, "pod-")
		if err != nil {
			return "", err
		}
		run.scratch = made
	}
	return run.scratch, nil
}

func (p *podRun) stop() {
	p.end()
	if p.scratch != "" {
		os.RemoveAll(p.scratch)
	}
}
