"""The platform interface's list, detail and change, as one would write them with Django REST framework.

    rival.py DATABASE SOCKET_DIRECTORY     makes and fills the tables, prints what to ask for
    gunicorn rival:application             serves (DATABASE and SOCKET_DIRECTORY from RIVAL_DATABASE, RIVAL_SOCKET)

It does less than what it stands against: no throttle, no audit log, no journal, no middleware.
"""

import json
import os
import sys
import uuid

import django
from django.conf import settings

if len(sys.argv) == 3:
    os.environ["RIVAL_DATABASE"], os.environ["RIVAL_SOCKET"] = sys.argv[1:]

settings.configure(
    SECRET_KEY="of no use: there are no sessions",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF="rival",
    USE_TZ=True,
    INSTALLED_APPS=[
        "django.contrib.contenttypes",
        "django.contrib.auth",
        "rest_framework",
        "rest_framework.authtoken",
    ],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": os.environ["RIVAL_DATABASE"],
            "HOST": os.environ["RIVAL_SOCKET"],
            "USER": "postgres",
            "CONN_MAX_AGE": None,
        }
    },
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.TokenAuthentication"],
        "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.PageNumberPagination",
        "PAGE_SIZE": 20,
    },
)
django.setup()

from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.db import connection, models
from django.urls import include, path
from rest_framework import routers, serializers, viewsets
from rest_framework.authtoken.models import Token


class Owned(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    owner = models.ForeignKey(User, on_delete=models.CASCADE)
    name = models.CharField(max_length=63)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        abstract = True


class Service(Owned):
    class Meta:
        app_label = "rival"


class Config(Owned):
    class Meta:
        app_label = "rival"


class Item(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    config = models.ForeignKey(Config, on_delete=models.CASCADE, related_name="items")
    key = models.CharField(max_length=255)
    value = models.TextField()
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        app_label = "rival"
        unique_together = [("config", "key")]


class Deployment(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    service = models.ForeignKey(Service, on_delete=models.CASCADE)
    version_number = models.IntegerField()
    image = models.CharField(max_length=500)
    port = models.IntegerField(null=True)
    replicas = models.IntegerField(default=1)
    config_snapshot = models.JSONField(default=dict)
    secret_keys_snapshot = models.JSONField(default=list)
    status = models.CharField(max_length=20)
    deployed_at = models.DateTimeField(auto_now_add=True, db_index=True)
    deployed_by = models.ForeignKey(User, on_delete=models.CASCADE)
    rollback_from = models.ForeignKey("self", null=True, on_delete=models.SET_NULL)
    notes = models.TextField(blank=True)
    error_message = models.TextField(blank=True)

    class Meta:
        app_label = "rival"
        ordering = ["-deployed_at"]


class DeploymentSerializer(serializers.ModelSerializer):
    class Meta:
        model = Deployment
        fields = "__all__"


class ItemSerializer(serializers.ModelSerializer):
    class Meta:
        model = Item
        fields = ["id", "key", "value", "created_at", "updated_at"]


class Deployments(viewsets.ReadOnlyModelViewSet):
    serializer_class = DeploymentSerializer

    def get_queryset(self):
        return Deployment.objects.filter(service__owner=self.request.user)


class Items(viewsets.ModelViewSet):
    serializer_class = ItemSerializer

    def get_queryset(self):
        return Item.objects.filter(config=self.kwargs["config"], config__owner=self.request.user).order_by("key")


router = routers.SimpleRouter()
router.register("deployments", Deployments, basename="deployment")
router.register("configs/(?P<config>[^/.]+)/items", Items, basename="item")
urlpatterns = [path("api/", include(router.urls))]
application = get_wsgi_application()


def fill(services):
    call_command("migrate", run_syncdb=True, verbosity=0)
    with connection.schema_editor() as editor:
        for model in [Service, Config, Item, Deployment]:
            editor.create_model(model)
    user = User.objects.create_user("me")
    for number in range(services):
        service = Service.objects.create(owner=user, name=f"web-{number}")
        deployment = Deployment.objects.create(
            service=service,
            version_number=1,
            image="nowhere.invalid/none:1",
            port=80,
            status="failed",
            deployed_by=user,
            error_message="the image cannot be had",
        )
    config = Config.objects.create(owner=user, name="bench")
    item = Item.objects.create(config=config, key="N", value="0")
    return {
        "key": Token.objects.create(user=user).key,
        "deployment": str(deployment.id),
        "item": f"/api/configs/{config.id}/items/{item.id}/",
    }


if __name__ == "__main__":
    json.dump(fill(services=30), sys.stdout)
