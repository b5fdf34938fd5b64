// informer is a controller's half of client-go: a shared informer of ConfigMaps, and a typed client
// that asks again and again, each time over a new connection.
package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"os/signal"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"cluster-proxy/tests/consumers/events"
)

const (
	namespace = "default"
	// A rotation takes seconds: many requests fall into it.
	between = 50 * time.Millisecond
)

func main() {
	file := flag.String("from", "", "kubeconfig of the hub's user")
	name := flag.String("context", "", "context in it: a cluster")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *file, *name); err != nil {
		events.Failed(err)
	}
}

func run(ctx context.Context, file, name string) error {
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: file}
	overrides := &clientcmd.ConfigOverrides{CurrentContext: name}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides).ClientConfig()
	if err != nil {
		return err
	}
	if err := inform(ctx, rest.CopyConfig(config)); err != nil {
		return err
	}
	return poll(ctx, config)
}

// inform starts the informer and waits for its first list.
func inform(ctx context.Context, config *rest.Config) error {
	events.Watch(config, events.Event{"client": "informer"})
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace))
	informer := factory.Core().V1().ConfigMaps().Informer()
	seen := func(kind string) func(any) {
		return func(object any) {
			if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = gone.Obj
			}
			if found, ok := object.(*corev1.ConfigMap); ok {
				events.Print(kind, events.Event{"name": found.Name, "data": found.Data})
			}
		}
	}
	_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    seen("added"),
		UpdateFunc: func(_, object any) { seen("updated")(object) },
		DeleteFunc: seen("deleted"),
	})
	if err != nil {
		return err
	}
	err = informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
		if !errors.Is(err, io.EOF) && ctx.Err() == nil {
			events.Print("failed", events.Event{"client": "informer", "reason": err.Error()})
		}
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	events.Print("synced", nil)
	return nil
}

// poll asks until ctx ends, and reports how often it was answered.
func poll(ctx context.Context, config *rest.Config) error {
	events.Watch(config, events.Event{"client": "typed"})
	// client-go shares connections among clients that are alike; a dialer of its own makes it unlike.
	config.Dial = (&net.Dialer{}).DialContext
	http, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfigAndClient(config, http)
	if err != nil {
		return err
	}
	for answered := 0; ; {
		if _, err := client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{}); err == nil {
			answered++
			events.Print("answered", events.Event{"times": answered})
		}
		utilnet.CloseIdleConnectionsFor(http.Transport)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(between):
		}
	}
}
