// operator is an operator on multicluster-runtime: one reconciler for the ConfigMaps of every cluster that
// a ClusterProfile of the hub's API leads to.
package main

import (
	"context"
	"flag"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/klog/v2"
	"sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"
	"sigs.k8s.io/cluster-inventory-api/pkg/access"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	mcbuilder "sigs.k8s.io/multicluster-runtime/pkg/builder"
	mcmanager "sigs.k8s.io/multicluster-runtime/pkg/manager"
	mcreconcile "sigs.k8s.io/multicluster-runtime/pkg/reconcile"

	"cluster-proxy/tests/consumers/events"
)

const (
	// What is copied, and where to.
	value  = "v"
	copied = "example.com/copy"
)

func main() {
	providers := access.SetupProviderFileFlag()
	namespace := flag.String("namespace", "cluster-inventory", "namespace of the ClusterProfiles")
	flag.Parse()
	ctrl.SetLogger(klog.Background())
	if err := run(ctrl.SetupSignalHandler(), *providers, *namespace); err != nil {
		events.Failed(err)
	}
}

func run(ctx context.Context, providers, namespace string) error {
	known, err := access.NewFromFile(providers)
	if err != nil {
		return err
	}
	hub, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	kinds := runtime.NewSchemeBuilder(clientgoscheme.AddToScheme, v1alpha1.AddToScheme)
	if err := kinds.AddToScheme(scheme); err != nil {
		return err
	}
	profiles := newProvider(known)
	fleet, err := mcmanager.New(hub, profiles, manager.Options{
		Scheme:  scheme,
		Metrics: server.Options{BindAddress: "0"},
		Cache:   cache.Options{DefaultNamespaces: map[string]cache.Config{namespace: {}}},
	})
	if err != nil {
		return err
	}
	if err := profiles.setup(fleet.GetLocalManager()); err != nil {
		return err
	}
	reconciler := &reconciler{fleet: fleet}
	err = mcbuilder.ControllerManagedBy(fleet).Named("configmaps").For(&corev1.ConfigMap{}).Complete(reconciler)
	if err != nil {
		return err
	}
	return fleet.Start(ctx)
}

type reconciler struct {
	fleet mcmanager.Manager
}

// Reconcile copies the value of a ConfigMap into an annotation of it, and reports the value once a watch
// has brought the copy.
func (r *reconciler) Reconcile(ctx context.Context, request mcreconcile.Request) (ctrl.Result, error) {
	cluster, err := r.fleet.GetCluster(ctx, request.ClusterName)
	if err != nil {
		return ctrl.Result{}, err
	}
	found := &corev1.ConfigMap{}
	if err := cluster.GetClient().Get(ctx, request.NamespacedName, found); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	wanted, ok := found.Data[value]
	if !ok {
		return ctrl.Result{}, nil
	}
	if found.Annotations[copied] == wanted {
		events.Print("reconciled", events.Event{"cluster": request.ClusterName, "name": request.Name, "value": wanted})
		return ctrl.Result{}, nil
	}
	changed := found.DeepCopy()
	if changed.Annotations == nil {
		changed.Annotations = map[string]string{}
	}
	changed.Annotations[copied] = wanted
	return ctrl.Result{}, cluster.GetClient().Patch(ctx, changed, client.MergeFrom(found))
}
