// Command fake-kubelet is the scheduler and the kubelet of one Node, as far as clients of a real
// kube-apiserver see them. Every Pod is bound to the Node and runs at once; exec starts real processes of this
// machine in a scratch folder, which is a trial and no isolation.
package main

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/cert"
)

func main() {
	server := flag.String("server", "", "URL of the kube-apiserver")
	dir := flag.String("dir", "", "folder with ca.crt, client.crt, client.key, kubelet.crt and kubelet.key; scratch folders are made in it")
	node := flag.String("node", "", "name of the Node")
	flag.Parse()
	// Where the programs of exec are looked for; who starts us may have no PATH.
	if err := os.Setenv("PATH", path); err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *server, *dir, *node); err != nil {
		log.Fatal(err)
	}
}

// path is that of every process here.
const path = "/usr/bin:/bin"

func run(ctx context.Context, server, dir, node string) error {
	file := func(name string) string { return filepath.Join(dir, name) }
	client, err := kubernetes.NewForConfig(&rest.Config{
		Host: server,
		TLSClientConfig: rest.TLSClientConfig{
			CAFile: file("ca.crt"), CertFile: file("client.crt"), KeyFile: file("client.key"),
		},
		QPS: -1,
	})
	if err != nil {
		return err
	}
	listener, err := listen(file("ca.crt"), file("kubelet.crt"), file("kubelet.key"))
	if err != nil {
		return err
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if err := register(ctx, client, node, int32(port)); err != nil {
		return fmt.Errorf("register the Node: %w", err)
	}
	runtime := newRuntime(file("pods"))
	defer runtime.finish()
	failed := make(chan error, 1)
	go func() { failed <- http.Serve(listener, handler(runtime)) }()
	go follow(ctx, client, node, runtime)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// listen opens a port of the loopback for clients with a certificate of the cluster's authority.
func listen(ca, certificate, key string) (net.Listener, error) {
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return nil, err
	}
	clients, err := cert.NewPool(ca)
	if err != nil {
		return nil, err
	}
	return tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{pair},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    clients,
		// Upgrades to SPDY are of HTTP/1.1.
		NextProtos: []string{"http/1.1"},
	})
}
