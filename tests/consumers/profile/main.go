// profile is what a consumer of one ClusterProfile does once: it reads it from the hub's API, has
// cluster-inventory-api's library build a client configuration of it, and lists Pods with that, by
// client-go and by controller-runtime.
package main

import (
	"context"
	"flag"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"
	"sigs.k8s.io/cluster-inventory-api/pkg/access"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"cluster-proxy/tests/consumers/events"
)

const patience = 30 * time.Second

func main() {
	providers := access.SetupProviderFileFlag()
	namespace := flag.String("namespace", "cluster-inventory", "namespace of the ClusterProfile")
	name := flag.String("clusterprofile", "", "its name")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := run(ctx, *providers, client.ObjectKey{Namespace: *namespace, Name: *name}); err != nil {
		events.Failed(err)
	}
}

func run(ctx context.Context, providers string, key client.ObjectKey) error {
	config, err := clusterConfig(ctx, providers, key)
	if err != nil {
		return err
	}
	events.Print("configured", events.Event{"server": config.Host})
	typed, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	found, err := typed.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	listed("client-go", found)
	generic, err := client.New(config, client.Options{})
	if err != nil {
		return err
	}
	found = &corev1.PodList{}
	if err := generic.List(ctx, found); err != nil {
		return err
	}
	listed("controller-runtime", found)
	return nil
}

// clusterConfig is the way to the cluster that the profile describes.
func clusterConfig(ctx context.Context, providers string, key client.ObjectKey) (*rest.Config, error) {
	hubConfig, err := ctrl.GetConfig()
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	hub, err := client.New(hubConfig, client.Options{Scheme: scheme})
	if err != nil {
		return nil, err
	}
	known, err := access.NewFromFile(providers)
	if err != nil {
		return nil, err
	}
	profile := &v1alpha1.ClusterProfile{}
	if err := hub.Get(ctx, key, profile); err != nil {
		return nil, err
	}
	return known.BuildConfigFromCP(profile)
}

func listed(by string, pods *corev1.PodList) {
	names := []string{}
	for _, pod := range pods.Items {
		names = append(names, pod.Namespace+"/"+pod.Name)
	}
	events.Print("listed", events.Event{"by": by, "pods": names})
}
