"""Staff of before goes on at work: as operators of every cluster. Superusers are administrators without a row."""

from django.conf import settings
from django.db import migrations
from django.utils import timezone


def make_operators(apps, schema_editor):
    grants = apps.get_model('nodes', 'Grant').objects
    users = apps.get_model(settings.AUTH_USER_MODEL).objects
    for user in users.filter(is_staff=True, is_superuser=False):
        grants.get_or_create(
            user=user, cluster=None, defaults={'role': 'operator', 'at': timezone.now(), 'given_by': 'console'}
        )


class Migration(migrations.Migration):

    dependencies = [('nodes', '0009_roles')]

    operations = [migrations.RunPython(make_operators, migrations.RunPython.noop)]
