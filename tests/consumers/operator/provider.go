package main

import (
	"context"
	"errors"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/cluster-inventory-api/apis/v1alpha1"
	"sigs.k8s.io/cluster-inventory-api/pkg/access"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/cluster"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/multicluster-runtime/pkg/multicluster"

	"cluster-proxy/tests/consumers/events"
)

const (
	// How long the first lists of a cluster may take, before it is tried again.
	patience = 10 * time.Second
	// A cluster that cannot be reached does not keep the others waiting.
	workers = 4
)

// provider makes a cluster of each ClusterProfile, by the rules of multicluster-runtime's own provider for
// them: any write to a profile makes a new cluster, with new watches, and one that stops being healthy
// keeps the cluster that it has. It differs in one thing: where the entry goes, the cluster does.
type provider struct {
	known  *access.Config
	client client.Client

	// Closed when the two after it are set.
	started chan struct{}
	life    context.Context
	aware   multicluster.Aware

	lock    sync.Mutex
	engaged map[multicluster.ClusterName]engagement
}

type engagement struct {
	cluster cluster.Cluster
	end     context.CancelFunc
}

func newProvider(known *access.Config) *provider {
	return &provider{
		known:   known,
		started: make(chan struct{}),
		engaged: map[multicluster.ClusterName]engagement{},
	}
}

// setup has the provider see every write to a profile.
func (p *provider) setup(hub manager.Manager) error {
	p.client = hub.GetClient()
	return ctrl.NewControllerManagedBy(hub).
		For(&v1alpha1.ClusterProfile{}).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Complete(p)
}

// Start takes the manager that clusters are for.
func (p *provider) Start(ctx context.Context, aware multicluster.Aware) error {
	p.life, p.aware = ctx, aware
	close(p.started)
	<-ctx.Done()
	return nil
}

// Get finds the cluster of a profile.
func (p *provider) Get(_ context.Context, name multicluster.ClusterName) (cluster.Cluster, error) {
	p.lock.Lock()
	defer p.lock.Unlock()
	if found, ok := p.engaged[name]; ok {
		return found.cluster, nil
	}
	return nil, multicluster.ErrClusterNotFound
}

// IndexField is refused: the reconciler has no index.
func (p *provider) IndexField(context.Context, client.Object, string, client.IndexerFunc) error {
	return errors.New("there are no indexes here")
}

// Reconcile brings the cluster of one profile up to date.
func (p *provider) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	select {
	case <-p.started:
	case <-ctx.Done():
		return ctrl.Result{}, ctx.Err()
	}
	name := multicluster.ClusterName(request.String())
	profile := &v1alpha1.ClusterProfile{}
	switch err := p.client.Get(ctx, request.NamespacedName, profile); {
	case apierrors.IsNotFound(err):
		p.disengage(name)
		return ctrl.Result{}, nil
	case err != nil:
		return ctrl.Result{}, err
	}
	if !meta.IsStatusConditionPresentAndEqual(
		profile.Status.Conditions, v1alpha1.ClusterConditionControlPlaneHealthy, metav1.ConditionTrue) {
		return ctrl.Result{}, nil
	}
	p.disengage(name)
	config, err := p.known.BuildConfigFromCP(profile)
	if err != nil {
		events.Print("unreachable", events.Event{"cluster": name, "reason": err.Error()})
		return ctrl.Result{}, nil
	}
	events.Watch(config, events.Event{"cluster": name})
	made, err := cluster.New(config, func(options *cluster.Options) {
		options.Cache.DefaultNamespaces = map[string]cache.Config{corev1.NamespaceDefault: {}}
	})
	if err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{}, p.engage(name, made)
}

// engage returns when the watches of the cluster have begun, or are given up.
func (p *provider) engage(name multicluster.ClusterName, made cluster.Cluster) error {
	ctx, end := context.WithCancel(p.life)
	p.lock.Lock()
	p.engaged[name] = engagement{cluster: made, end: end}
	p.lock.Unlock()
	go func() {
		if err := made.Start(ctx); err != nil {
			events.Print("error", events.Event{"cluster": name, "reason": err.Error()})
		}
	}()
	late := time.AfterFunc(patience, end)
	defer late.Stop()
	if err := p.aware.Engage(ctx, name, made); err != nil {
		p.disengage(name)
		return err
	}
	events.Print("engaged", events.Event{"cluster": name})
	return nil
}

func (p *provider) disengage(name multicluster.ClusterName) {
	p.lock.Lock()
	defer p.lock.Unlock()
	if found, ok := p.engaged[name]; ok {
		found.end()
		delete(p.engaged, name)
		events.Print("disengaged", events.Event{"cluster": name})
	}
}
