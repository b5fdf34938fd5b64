package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

const (
	// idle is how long a silent connection is kept, as the real kubelet has it.
	idle = 4 * time.Hour
	// creation is how long a client may take to open its streams.
	creation = 30 * time.Second
)

// handler serves what kube-apiserver asks a kubelet for.
func handler(runtime *runtime) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		if _, program, ok := find(runtime, w, r); ok {
			logs(w, r, program)
		}
	})
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		run, _, ok := find(runtime, w, r)
		if !ok {
			return
		}
		options, err := remotecommand.NewOptions(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		remotecommand.ServeExec(w, r, executor{runtime, run}, r.PathValue("pod"), string(run.uid), r.PathValue("container"),
			r.URL.Query()["command"], options, idle, creation, remotecommand.SupportedStreamingProtocols)
	})
	mux.HandleFunc("/attach/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		run, program, ok := find(runtime, w, r)
		if !ok {
			return
		}
		options, err := remotecommand.NewOptions(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		remotecommand.ServeAttach(w, r, attacher{program}, r.PathValue("pod"), string(run.uid), r.PathValue("container"),
			options, idle, creation, remotecommand.SupportedStreamingProtocols)
	})
	mux.HandleFunc("/portForward/{namespace}/{pod}", func(w http.ResponseWriter, r *http.Request) {
		run, _, ok := find(runtime, w, r)
		if !ok {
			return
		}
		options, err := portforward.NewV4Options(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		portforward.ServePortForward(w, r, forwarder{run}, r.PathValue("pod"), string(run.uid),
			options, idle, creation, portforward.SupportedProtocols)
	})
	return mux
}

func find(runtime *runtime, w http.ResponseWriter, r *http.Request) (*podRun, *program, bool) {
	run, program, err := runtime.find(r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
	}
	return run, program, err == nil
}

// logs answers with the lines of a container that the query asks for.
func logs(w http.ResponseWriter, r *http.Request, program *program) {
	query := r.URL.Query()
	number := func(name string) (int, bool) {
		value, err := strconv.Atoi(query.Get(name))
		return value, err == nil
	}
	if query.Get("previous") == "true" {
		http.Error(w, fmt.Sprintf("previous terminated container %q in pod %q not found",
			r.PathValue("container"), r.PathValue("pod")), http.StatusBadRequest)
		return
	}
	var oldest time.Time
	if seconds, ok := number("sinceSeconds"); ok {
		oldest = time.Now().Add(-time.Duration(seconds) * time.Second)
	} else if at, err := time.Parse(time.RFC3339, query.Get("sinceTime")); err == nil {
		oldest = at
	}
	left := -1
	if limit, ok := number("limitBytes"); ok {
		left = limit
	}
	write := func(line line) error {
		if line.at.Before(oldest) {
			return nil
		}
		text := line.text + "\n"
		if query.Get("timestamps") == "true" {
			text = line.at.UTC().Format(time.RFC3339Nano) + " " + text
		}
		if left >= 0 {
			text = text[:min(left, len(text))]
			left -= len(text)
		}
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
		w.(http.Flusher).Flush()
		if left == 0 {
			return io.EOF
		}
		return nil
	}
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusOK)
	lines, next, _ := program.since(0)
	if tail, ok := number("tailLines"); ok {
		lines = lines[max(len(lines)-tail, 0):]
	}
	for _, line := range lines {
		if write(line) != nil {
			return
		}
	}
	if query.Get("follow") == "true" {
		// The client left, or the Pod ended: nobody is left to tell.
		_ = program.follow(r.Context(), next, write)
	}
}

type attacher struct{ program *program }

func (a attacher) AttachContainer(ctx context.Context, _, _, _ string, in io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize) error {
	return a.program.attach(ctx, in, out)
}

type forwarder struct{ run *podRun }

// PortForward serves one connection: echo (RFC 862) on port 7, a small web server on 80 and 8080.
func (f forwarder) PortForward(_ context.Context, pod, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	defer context.AfterFunc(f.run.ctx, func() { stream.Close() })()
	switch port {
	case 7:
		_, err := io.Copy(stream, stream)
		return err
	case 80, 8080:
		return web(stream, pod)
	}
	return fmt.Errorf("nothing listens on port %d of pod %s; try 7 or 80", port, pod)
}

// web answers the requests of one connection.
func web(stream io.ReadWriter, pod string) error {
	for reader := bufio.NewReader(stream); ; {
		request, err := http.ReadRequest(reader)
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		text := fmt.Sprintf("hello from %s\n", pod)
		answer := http.Response{
			StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Request: request,
			Body: io.NopCloser(strings.NewReader(text)), ContentLength: int64(len(text)), Close: request.Close,
		}
		if err := answer.Write(stream); err != nil || request.Close {
			return err
		}
	}
}
