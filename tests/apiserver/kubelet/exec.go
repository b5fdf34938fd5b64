package main

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"syscall"
	"time"

	"github.com/creack/pty"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

type executor struct {
	runtime *runtime
	run     *podRun
}

// ExecInContainer runs a process of this machine to its end, or to that of the Pod.
func (e executor) ExecInContainer(_ context.Context, _, _, _ string, argv []string, in io.Reader, out, err io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	if len(argv) == 0 {
		return errors.New("no command")
	}
	dir, failed := e.runtime.folder(e.run)
	if failed != nil {
		return failed
	}
	command := exec.CommandContext(e.run.ctx, argv[0], argv[1:]...)
	command.Dir = dir
	command.Env = []string{"PATH=" + path, "HOME=" + dir}
	// The whole group, or session, that it leads.
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	if tty {
		failed = onTerminal(command, in, out, resize)
	} else {
		failed = onPipes(command, in, out, err)
	}
	var exit *exec.ExitError
	if errors.As(failed, &exit) {
		code := exit.ExitCode()
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			code = 128 + int(status.Signal())
		}
		return utilexec.CodeExitError{Err: failed, Code: code}
	}
	return failed
}

func onPipes(command *exec.Cmd, in io.Reader, out, err io.Writer) error {
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// An interface that holds a nil stream is not nil.
	if out != nil {
		command.Stdout = out
	}
	if err != nil {
		command.Stderr = err
	}
	if in == nil {
		return command.Run()
	}
	// Not command.Stdin: the process may end before its client closes the stream.
	stdin, failed := command.StdinPipe()
	if failed != nil {
		return failed
	}
	if failed := command.Start(); failed != nil {
		return failed
	}
	go func() {
		_, _ = io.Copy(stdin, in)
		stdin.Close()
	}()
	return command.Wait()
}

func onTerminal(command *exec.Cmd, in io.Reader, out io.Writer, resize <-chan remotecommand.TerminalSize) error {
	command.Env = append(command.Env, "TERM=xterm")
	// Makes the process the leader of a session.
	terminal, failed := pty.Start(command)
	if failed != nil {
		return failed
	}
	go func() {
		for size := range resize {
			_ = pty.Setsize(terminal, &pty.Winsize{Rows: size.Height, Cols: size.Width})
		}
	}()
	if in != nil {
		go func() { _, _ = io.Copy(terminal, in) }()
	}
	if out != nil {
		// Ends with EIO when nobody holds the other end any more.
		_, _ = io.Copy(out, terminal)
		// Of a client that left, the process is told.
		terminal.Close()
	}
	return command.Wait()
}
