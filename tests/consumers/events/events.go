// Package events prints what a consumer sees: one JSON object a line, for a test to read.
package events

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"

	"k8s.io/client-go/rest"
)

// Event is one line.
type Event map[string]any

var (
	lock   sync.Mutex
	output = json.NewEncoder(os.Stdout)
)

// Print writes a line that says kind, and what else is in fields.
func Print(kind string, fields Event) {
	line := Event{"event": kind}
	for key, value := range fields {
		line[key] = value
	}
	lock.Lock()
	defer lock.Unlock()
	if err := output.Encode(line); err != nil {
		os.Exit(1)
	}
}

// Failed reports why a program cannot go on, and ends it.
func Failed(err error) {
	Print("error", Event{"reason": err.Error()})
	os.Exit(1)
}

// Watch reports each request of config that fails, each answer that is cut, the serial number of each
// certificate that the server shows, and the SHA-256 of each token that is sent.
func Watch(config *rest.Config, fields Event) {
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return &transport{next: next, fields: fields, last: map[string]string{}}
	})
}

type transport struct {
	next   http.RoundTripper
	fields Event
	lock   sync.Mutex
	// What was reported last, by kind.
	last map[string]string
}

// WrappedRoundTripper leads client-go to the transport whose idle connections it closes.
func (t *transport) WrappedRoundTripper() http.RoundTripper { return t.next }

func (t *transport) RoundTrip(request *http.Request) (*http.Response, error) {
	if token, ok := strings.CutPrefix(request.Header.Get("Authorization"), "Bearer "); ok {
		sum := sha256.Sum256([]byte(token))
		t.changed(request, "token", "sha256", hex.EncodeToString(sum[:]))
	}
	response, err := t.next.RoundTrip(request)
	if err != nil {
		if request.Context().Err() == nil {
			t.print("failed", request, Event{"reason": err.Error()})
		}
		return response, err
	}
	if response.StatusCode >= http.StatusBadRequest {
		t.print("failed", request, Event{"status": response.StatusCode})
	}
	if state := response.TLS; state != nil && len(state.PeerCertificates) > 0 {
		t.changed(request, "certificate", "serial", state.PeerCertificates[0].SerialNumber.Text(16))
	}
	response.Body = &body{ReadCloser: response.Body, transport: t, request: request}
	return response, nil
}

// changed reports a value that is not the last one of its kind.
func (t *transport) changed(request *http.Request, kind, field, value string) {
	t.lock.Lock()
	known := t.last[kind] == value
	t.last[kind] = value
	t.lock.Unlock()
	if !known {
		t.print(kind, request, Event{field: value})
	}
}

func (t *transport) print(kind string, request *http.Request, fields Event) {
	line := Event{"method": request.Method, "path": request.URL.Path}
	for _, more := range []Event{t.fields, fields} {
		for key, value := range more {
			line[key] = value
		}
	}
	Print(kind, line)
}

// body reports an answer that does not end as it should.
type body struct {
	io.ReadCloser
	transport *transport
	request   *http.Request
}

func (b *body) Read(into []byte) (int, error) {
	count, err := b.ReadCloser.Read(into)
	if err != nil && !errors.Is(err, io.EOF) && b.request.Context().Err() == nil {
		b.transport.print("cut", b.request, Event{"reason": err.Error()})
	}
	return count, err
}
