package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"sync"
	"time"
)

// program is the main program of a container: it writes a line each second, and repeats each line it reads.
type program struct {
	lock sync.Mutex
	// lines are the newest ones; first is the number of the oldest of them.
	lines []line
	first int
	// changed is closed by the next line.
	changed chan struct{}
	ended   context.Context
}

type line struct {
	at   time.Time
	text string
}

// kept bounds the lines that a log remembers.
const kept = 100_000

func startProgram(ctx context.Context) *program {
	p := &program{changed: make(chan struct{}), ended: ctx}
	go func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for number := 1; ; number++ {
			p.write(fmt.Sprintf("tick %d", number))
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return p
}

func (p *program) write(text string) {
	p.lock.Lock()
	defer p.lock.Unlock()
	p.lines = append(p.lines, line{time.Now(), text})
	if len(p.lines) > kept {
		p.first += len(p.lines) - kept
		p.lines = p.lines[len(p.lines)-kept:]
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

// since returns the lines from number on, the number after them, and what is closed when there are more.
func (p *program) since(number int) ([]line, int, <-chan struct{}) {
	p.lock.Lock()
	defer p.lock.Unlock()
	skipped := min(max(number-p.first, 0), len(p.lines))
	return p.lines[skipped:len(p.lines):len(p.lines)], p.first + len(p.lines), p.changed
}

// follow hands every line from number on to write, until that fails, the reader leaves or the Pod ends.
func (p *program) follow(ctx context.Context, number int, write func(line) error) error {
	for {
		lines, next, changed := p.since(number)
		for _, line := range lines {
			if err := write(line); err != nil {
				return err
			}
		}
		number = next
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-p.ended.Done():
			return nil
		}
	}
}

// attach connects a client to the program: what it reads, and what it writes from now on.
func (p *program) attach(ctx context.Context, in io.Reader, out io.Writer) error {
	if in != nil {
		go func() {
			for typed := bufio.NewScanner(in); typed.Scan(); {
				p.write("read " + typed.Text())
			}
		}()
	}
	if out == nil {
		<-p.ended.Done()
		return nil
	}
	_, next, _ := p.since(0)
	return p.follow(ctx, next, func(line line) error {
		_, err := io.WriteString(out, line.text+"\n")
		return err
	})
}
